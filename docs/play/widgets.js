/* What the interactive pages are made of: parts of a page, figures, controls, and the box with the Python lines.
 *
 * A page holds <div class="play" data-play="name">a sentence for readers without JavaScript</div>, and loads play.css,
 * noise.js, this file, and the script that says argumbel.play("name", mount). mount(host, ui) fills the div. What mount
 * returns is kept as host.play, where the tests find it.
 *
 * These are classic scripts without a build step, so pages also work from file://. */
(function (root) {
  "use strict";

  const argumbel = (root.argumbel = root.argumbel || {});

  // ---------------------------------------------------------------------------------------- elements

  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "text") element.textContent = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children || []) element.append(child);
    return element;
  }

  /** An HTML element. An attribute "text" is its text, "onclick" a listener; false and null are left out. */
  function html(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  /** The same for an element of SVG. */
  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  let lastId = 0;
  const newId = () => `play-${++lastId}`;

  // ---------------------------------------------------------------------------------------- colours and motion

  const NAMES = ["ink", "soft", "faint", "line", "paper", "1", "2", "3", "4", "5", "6"];

  /** The colours of play.css as they are now: ink soft faint line paper, and series, an array of six. */
  function colours() {
    const style = getComputedStyle(document.body);
    const all = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--play-${name}`).trim()]));
    all.series = ["1", "2", "3", "4", "5", "6"].map((name) => all[name]);
    return all;
  }

  /** Calls `then` when the reader changes between light and dark. */
  function onTheme(then) {
    const observer = new MutationObserver(then);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
    root.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", then);
  }

  /** Whether the reader asked for less motion: then show results, and nothing that moves by itself. */
  const reducedMotion = () => root.matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** A loop of animation frames that rests while `element` is off screen.
   *
   * step(seconds, now) gets the time since the last frame (at most 0.1) and the time in seconds; it returns false to end
   * the loop. start() and stop() may be called at any time; `running` says which was last. */
  function loop(element, step) {
    let running = false;
    let isSeen = true;
    let frame = 0;
    let last = 0;
    function tick(time) {
      frame = 0;
      const seconds = Math.min(0.1, Math.max(0, time - last) / 1000); // a frame may have begun before start()
      last = time;
      if (step(seconds, time / 1000) === false) running = false;
      ask();
    }
    function ask() {
      if (running && isSeen && !frame) frame = requestAnimationFrame(tick);
    }
    new IntersectionObserver((entries) => {
      isSeen = entries[entries.length - 1].isIntersecting;
      last = performance.now();
      ask();
    }).observe(element);
    return {
      start() {
        if (!running) last = performance.now();
        running = true;
        ask();
      },
      stop() {
        running = false;
        if (frame) cancelAnimationFrame(frame);
        frame = 0;
      },
      get running() {
        return running;
      },
    };
  }

  /** From 0 to 1, slow at both ends. */
  const ease = (t) => (t <= 0 ? 0 : t >= 1 ? 1 : t * t * (3 - 2 * t));

  // ---------------------------------------------------------------------------------------- figures

  /** A canvas that is sharp at any pixel ratio, as wide as `parent`, drawn again when its size or the theme changes.
   *
   * options: height, a number or a function of the width; label, what the picture shows, for those who do not see it;
   * draw(context, width, height, colours), in CSS pixels, on a canvas that is empty.
   * Returns { element, box, width, height, redraw(), describe(label), at(event) }: redraw draws at the next frame;
   * at(event) gives the [x, y] of a pointer. `box` holds the canvas, and is where handles are put. */
  function canvas(parent, options) {
    const element = html("canvas", { role: "img", "aria-label": options.label || "" });
    const box = html("div", { class: "play-figure" }, element);
    parent.append(box);
    const context = element.getContext("2d");
    let palette = colours();
    let frame = 0;
    const figure = {
      element,
      box,
      context,
      width: 0,
      height: 0,
      redraw() {
        if (!frame) frame = requestAnimationFrame(draw);
      },
      describe(label) {
        if (element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label);
      },
      at(event) {
        const bounds = element.getBoundingClientRect();
        return [event.clientX - bounds.left, event.clientY - bounds.top];
      },
    };
    function draw() {
      frame = 0;
      if (!figure.width) return;
      const ratio = root.devicePixelRatio || 1;
      const [width, height] = [Math.round(figure.width * ratio), Math.round(figure.height * ratio)];
      if (element.width !== width || element.height !== height) {
        element.width = width;
        element.height = height;
      }
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, figure.width, figure.height);
      options.draw(context, figure.width, figure.height, palette);
    }
    function measure() {
      const width = box.clientWidth;
      const height = typeof options.height === "function" ? options.height(width) : options.height;
      if (width === figure.width && height === figure.height) return;
      figure.width = width;
      figure.height = height;
      element.style.height = `${height}px`;
      if (options.resized) options.resized(figure);
      figure.redraw();
    }
    new ResizeObserver(measure).observe(box);
    onTheme(() => {
      palette = colours();
      figure.redraw();
    });
    measure();
    return figure;
  }

  /** Pointer drags: start(x, y, event) returns false where there is nothing to drag; move(x, y, event); end(). */
  function drag(element, { start, move, end }) {
    let pointer = null;
    const at = (event) => {
      const bounds = element.getBoundingClientRect();
      return [event.clientX - bounds.left, event.clientY - bounds.top];
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || (start && start(...at(event), event) === false)) return;
      pointer = event.pointerId;
      element.setPointerCapture(pointer);
      event.preventDefault();
    });
    element.addEventListener("pointermove", (event) => {
      if (event.pointerId === pointer) move(...at(event), event);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, (event) => {
        if (event.pointerId !== pointer) return;
        pointer = null;
        if (end) end();
      });
    }
  }

  /** A handle on a figure: a slider that can be dragged, and moved by the arrow keys, Page Up and Down, Home and End.
   *
   * options: label, min, max, step, value; place(value) gives its [x, y] in `box`; from(x, y) a value; text(value) what is
   * read out; oninput(value). Returns { element, value, set(value), place() }; call place() after the figure's size
   * changed. set() does not call oninput. */
  function handle(box, options) {
    const { min, max, step } = options;
    const round = (x) => Number((Math.round(Math.min(max, Math.max(min, x)) / step) * step).toFixed(6));
    const element = html("div", {
      class: "play-handle",
      role: "slider",
      tabindex: "0",
      "aria-label": options.label,
      "aria-valuemin": min,
      "aria-valuemax": max,
      "aria-orientation": options.orientation || "vertical",
    });
    box.append(element);
    const self = {
      element,
      value: options.value,
      place() {
        const [x, y] = options.place(self.value);
        element.style.transform = `translate(${x}px, ${y}px)`;
      },
      set(value) {
        self.value = round(value);
        element.setAttribute("aria-valuenow", self.value);
        element.setAttribute("aria-valuetext", options.text ? options.text(self.value) : String(self.value));
        self.place();
      },
    };
    function input(value) {
      const before = self.value;
      self.set(value);
      if (self.value !== before) options.oninput(self.value);
    }
    element.addEventListener("keydown", (event) => {
      const big = (options.bigStep || 10 * step);
      const moves = {
        ArrowUp: step, ArrowRight: step, ArrowDown: -step, ArrowLeft: -step, PageUp: big, PageDown: -big,
        Home: -Infinity, End: Infinity,
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      input(self.value + moves[event.key]);
    });
    drag(element, {
      start: () => element.focus({ preventScroll: true }),
      move: (x, y, event) => {
        const bounds = box.getBoundingClientRect();
        input(options.from(event.clientX - bounds.left, event.clientY - bounds.top));
      },
    });
    self.set(options.value);
    return self;
  }

  // ---------------------------------------------------------------------------------------- controls

  /** A row for controls; it wraps on narrow screens. */
  function controls(parent) {
    const row = html("div", { class: "play-controls" });
    parent.append(row);
    return row;
  }

  /** A labelled slider: { label, min, max, step, value, format(value), log: true for a logarithmic scale, oninput(value) }.
   * Returns { element, input, value, set(value) }; set() does not call oninput. */
  function slider(parent, options) {
    const { log } = options;
    const format = options.format || ((x) => String(x));
    const digits = options.digits ?? 3;
    const steps = 200; // of a logarithmic scale
    const toInput = (x) => (log ? (steps * Math.log(x / options.min)) / Math.log(options.max / options.min) : x);
    const fromInput = (t) =>
      log ? Number((options.min * (options.max / options.min) ** (t / steps)).toPrecision(digits)) : t;
    const id = newId();
    const shown = html("output", { for: id });
    const input = html("input", {
      type: "range",
      id,
      min: log ? 0 : options.min,
      max: log ? steps : options.max,
      step: log ? 1 : options.step,
    });
    const element = html(
      "div",
      { class: "play-control play-slider" },
      html("label", { for: id }, options.label, " ", shown),
      input
    );
    parent.append(element);
    const self = {
      element,
      input,
      value: options.value,
      set(value) {
        self.value = value;
        input.value = toInput(value);
        shown.textContent = format(value);
        input.setAttribute("aria-valuetext", format(value));
      },
    };
    input.addEventListener("input", () => {
      const value = fromInput(Number(input.value));
      self.value = value;
      shown.textContent = format(value);
      input.setAttribute("aria-valuetext", format(value));
      options.oninput(value);
    });
    self.set(options.value);
    return self;
  }

  /** A button: { label, onclick, title, main: true for the one that matters most }. Returns the element. */
  function button(parent, options) {
    const element = html("button", {
      type: "button",
      class: options.main ? "play-button play-main" : "play-button",
      title: options.title,
      text: options.label,
      onclick: options.onclick,
    });
    parent.append(element);
    return element;
  }

  /** One of a few: { label, options: [[value, label], ...], value, oninput(value) }. Returns { element, value, set(value) }. */
  function choice(parent, options) {
    const name = newId();
    const element = html(
      "fieldset",
      { class: "play-control play-choice" },
      html("legend", { text: options.label })
    );
    const row = html("div", { class: "play-options" });
    element.append(row);
    const inputs = options.options.map(([value, label]) => {
      const input = html("input", {
        type: "radio",
        name,
        value,
        onchange: () => {
          self.value = value;
          options.oninput(value);
        },
      });
      row.append(html("label", {}, input, html("span", { text: label })));
      return [value, input];
    });
    const self = {
      element,
      value: options.value,
      set(value) {
        self.value = value;
        for (const [other, input] of inputs) input.checked = other === value;
      },
    };
    self.set(options.value);
    parent.append(element);
    return self;
  }

  /** A switch: { label, value, oninput(value) }. Returns { element, value, set(value) }. */
  function toggle(parent, options) {
    const input = html("input", {
      type: "checkbox",
      onchange: () => {
        self.value = input.checked;
        options.oninput(input.checked);
      },
    });
    const element = html("label", { class: "play-control play-toggle" }, input, html("span", { text: options.label }));
    parent.append(element);
    const self = {
      element,
      value: options.value,
      set(value) {
        self.value = value;
        input.checked = value;
      },
    };
    self.set(options.value);
    return self;
  }

  /** A whole number of up to 64 bits, as a seed: { label, value, min, max, oninput(value) }. Numbers beyond 2^53 are BigInt.
   * What is no such number is marked as wrong, and not passed on. Returns { element, value, set(value) }. */
  function whole(parent, options) {
    const id = newId();
    const least = BigInt(options.min ?? -(2n ** 63n));
    const most = BigInt(options.max ?? 2n ** 63n - 1n);
    const input = html("input", { type: "text", inputmode: "numeric", id, autocomplete: "off", spellcheck: "false" });
    const element = html("div", { class: "play-control play-whole" }, html("label", { for: id, text: options.label }), input);
    parent.append(element);
    const plain = (big) => (Number.isSafeInteger(Number(big)) ? Number(big) : big);
    function read() {
      if (!/^\s*-?\d+\s*$/.test(input.value)) return null;
      const big = BigInt(input.value.trim());
      return big < least || big > most ? null : plain(big);
    }
    const self = {
      element,
      input,
      value: options.value,
      set(value) {
        self.value = value;
        input.value = String(value);
        input.size = Math.max(4, input.value.length);
        input.removeAttribute("aria-invalid");
      },
      /** The number that `text` is, within the limits, or null: for what comes from the address. */
      parse(text) {
        input.value = text;
        const value = read();
        input.value = String(self.value);
        return value;
      },
    };
    input.addEventListener("input", () => {
      const value = read();
      input.size = Math.max(4, input.value.length);
      if (value === null) {
        input.setAttribute("aria-invalid", "true");
        return;
      }
      input.removeAttribute("aria-invalid");
      self.value = value;
      options.oninput(value);
    });
    input.addEventListener("blur", () => self.set(self.value));
    self.set(options.value);
    return self;
  }

  /** A line of text that is read out when it has rested for half a second: say(text). */
  function live(parent) {
    const shown = html("p", { class: "play-say" });
    const read = html("span", { class: "play-hidden", role: "status" });
    parent.append(shown, read);
    let timer = 0;
    return {
      element: shown,
      say(text) {
        if (shown.textContent === text) return;
        shown.textContent = text;
        clearTimeout(timer);
        timer = setTimeout(() => (read.textContent = text), 500);
      },
    };
  }

  // ---------------------------------------------------------------------------------------- the Python box

  const KEYWORDS = "and as assert break class def elif else False for from if import in is lambda None not or return True while with";
  const TOKEN = new RegExp(
    `(#.*)|("(?:[^"\\\\]|\\\\.)*"|'(?:[^'\\\\]|\\\\.)*')|\\b(${KEYWORDS.replaceAll(" ", "|")})\\b|(\\b\\d[\\d_.]*(?:e[-+]?\\d+)?)`,
    "g"
  );
  const CLASSES = ["c1", "s2", "k", "mi"]; // the classes that the site's own code blocks have

  function highlight(code, text) {
    code.textContent = "";
    let end = 0;
    for (const match of text.matchAll(TOKEN)) {
      const kind = match.slice(1).findIndex((group) => group !== undefined);
      code.append(text.slice(end, match.index), html("span", { class: CLASSES[kind], text: match[0] }));
      end = match.index + match[0].length;
    }
    code.append(text.slice(end));
  }

  /** The Python lines that give what is on screen, and what they print: set(code, output). The tests run the code and
   * compare what it prints with output, so both must be what the page shows. */
  function python(parent, title = "The same in Python") {
    const code = html("code", { class: "play-code" });
    const output = html("samp", { class: "play-output" });
    const copy = html("button", {
      type: "button",
      class: "play-copy",
      text: "Copy",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(code.textContent);
        } catch {
          getSelection().selectAllChildren(code);
          return;
        }
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy"), 1500);
      },
    });
    const prints = html("p", { class: "play-prints", text: "prints" });
    // Long lines scroll, so the keyboard must reach the boxes.
    const element = html(
      "div",
      { class: "play-python", role: "group", "aria-label": title },
      html("div", { class: "play-python-head" }, html("span", { text: title }), copy),
      html("div", { class: "highlight" }, html("pre", { tabindex: "0", "aria-label": "Python code" }, code)),
      prints,
      html("pre", { class: "play-output-box", tabindex: "0", "aria-label": "What the code prints" }, output)
    );
    parent.append(element);
    return {
      element,
      set(text, printed) {
        if (code.textContent !== text) highlight(code, text);
        output.textContent = printed;
      },
    };
  }

  /** A list of numbers as Python writes a list of floats: 2 is "2.0". */
  function pythonFloats(numbers) {
    const one = (x) => {
      if (!Number.isFinite(x)) return `float("${x < 0 ? "-" : ""}inf")`;
      return Number.isInteger(x) ? `${x}.0` : String(x);
    };
    return `[${Array.from(numbers, one).join(", ")}]`;
  }

  // ---------------------------------------------------------------------------------------- the address

  /** What is in the address after #, as name=value: get(name) is a string or null; set({ name: value }) writes it within a
   * quarter of a second, without a step in the history; a value of null is taken out. */
  function address() {
    const text = location.hash.slice(1);
    const values = new URLSearchParams(text.includes("=") ? text : "");
    let timer = 0;
    return {
      get: (name) => values.get(name),
      set(changes) {
        for (const [name, value] of Object.entries(changes)) {
          if (value == null) values.delete(name);
          else values.set(name, value);
        }
        clearTimeout(timer);
        timer = setTimeout(() => {
          const written = values.toString().replaceAll("%2C", ",");
          history.replaceState(history.state, "", written ? `#${written}` : location.pathname + location.search);
        }, 250);
      },
    };
  }

  // ---------------------------------------------------------------------------------------- parts of a page

  const ui = {
    html, svg, colours, onTheme, reducedMotion, loop, ease, canvas, drag, handle, controls, slider, button, choice, toggle,
    whole, live, python, pythonFloats, address,
  };

  const parts = new Map();

  function mountAll() {
    for (const host of document.querySelectorAll("div.play[data-play]")) {
      const mount = parts.get(host.dataset.play);
      if (!mount || host.dataset.mounted) continue;
      host.dataset.mounted = "yes";
      host.textContent = "";
      host.play = mount(host, ui) || {};
    }
  }

  /** Registers a part of a page; mount(host, ui) fills each <div class="play" data-play="name">. */
  argumbel.play = function play(name, mount) {
    parts.set(name, mount);
    if (document.readyState !== "loading") mountAll();
  };
  argumbel.mount = mountAll; // for a div that is put into the page later
  argumbel.ui = ui;
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", mountAll);
})(globalThis);
