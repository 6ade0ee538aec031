/* The page "The race": logits, the noise on top of them, who comes first, and how often. Also the small race of the front
 * page, which runs by itself. */
(function (root) {
  "use strict";

  const argumbel = root.argumbel;
  const NAMES = "abcdef";
  const LOGITS = [1, 0.5, -0.5, 2, 0, 1.5];
  const LEAST = -2; // of a logit
  const MOST = 3;
  const AT_ONCE = 5000; // so many races are counted again while a logit is dragged; more of them frame by frame
  const MILLION = 1000000;
  const STEP = 9; // pixels from the bar of a logit down to its noise

  const percent = (share, digits) => (share === 1 ? "100%" : `${(100 * share).toFixed(digits)}%`);
  const scaled = (logits, temperature) => logits.map((x) => Math.fround(Math.fround(x) / Math.fround(temperature)));

  /** The density of standard Gumbel noise. */
  const density = (z) => Math.exp(-z - Math.exp(-z));

  // ---------------------------------------------------------------------------------------- the picture

  /** One lane for each item, and beside it how soft the choice is and how often the item came first.
   *
   * show(scene) draws: scores (logits over temperature), values (perturbed logits, or null before a race), order (the first
   * k items), soft (the soft choice, or null), shares, exact, races, low and high (the ends of the lanes). */
  function picture(host, ui, { small, resized }) {
    const { svg } = ui;
    const n = LOGITS.length;
    const box = ui.html("div", { class: "play-figure race" });
    const image = svg("svg", { role: "img" });
    box.append(image);
    host.append(box);

    const heads = {
      race: svg("text", {}, svg("tspan", { class: "race-logit", text: "logit" }), svg("tspan", { text: " + " }),
        svg("tspan", { class: "race-noise", text: "noise" })),
      soft: svg("text", {}),
      wins: svg("text", {}),
      exact: svg("text", { "text-anchor": "end" }),
    };
    for (const head of Object.values(heads)) head.classList.add("race-head");
    const finish = svg("line", { class: "race-finish" });
    image.append(finish, ...Object.values(heads));
    const lanes = Array.from({ length: n }, (_, i) => {
      const lane = {
        name: svg("text", { class: "race-name", text: NAMES[i] }),
        hill: svg("path", { class: "race-hill" }),
        logit: svg("rect", { class: "race-bar", height: 8, rx: 1 }),
        noise: svg("line", { class: "race-step" }),
        dot: svg("circle", { class: "race-dot" }),
        place: svg("text", { class: "race-place", "text-anchor": "middle" }),
        soft: svg("rect", { class: "race-soft" }),
        softEmpty: svg("rect", { class: "race-empty" }),
        wins: svg("rect", { class: "race-wins" }),
        winsEmpty: svg("rect", { class: "race-empty" }),
        tick: svg("line", { class: "race-tick" }),
        share: svg("text", { class: "race-number", "text-anchor": "end" }),
        exact: svg("text", { class: "race-number race-exact", "text-anchor": "end" }),
      };
      image.append(
        lane.hill, lane.logit, lane.noise, lane.dot, lane.place, lane.name, lane.softEmpty, lane.soft, lane.winsEmpty,
        lane.wins, lane.tick, lane.share, lane.exact
      );
      return lane;
    });

    const at = {}; // where columns are
    let last = null;
    const self = {
      box,
      x: (value) => at.lane + ((value - last.low) / (last.high - last.low)) * at.laneWidth,
      value: (x) => last.low + ((x - at.lane) / at.laneWidth) * (last.high - last.low),
      baseline: (i) => at.top + (i + 1) * at.row - at.below,
      show,
      describe: (label) => image.setAttribute("aria-label", label),
    };

    const set = (element, attributes) => {
      for (const name in attributes) element.setAttribute(name, attributes[name]);
    };

    function measure() {
      const width = box.clientWidth;
      if (!width || width === at.width) return;
      const isNarrow = width < 560;
      at.width = width;
      at.row = small ? 40 : isNarrow ? 44 : 50;
      at.below = small ? 14 : 19; // from the baseline of a lane to its end
      at.top = 30;
      at.lane = 24;
      at.digits = width < 760 ? 1 : 2;
      const gap = isNarrow ? 10 : 30;
      const numbers = small ? 0 : isNarrow ? 48 : width < 760 ? 56 : 72;
      at.hasExact = !small && width >= 760;
      const wins = small ? Math.round(width * 0.22) : isNarrow ? 44 : Math.round(width * 0.17);
      const soft = small ? 0 : isNarrow ? 26 : Math.round(width * 0.09);
      at.right = width;
      at.exact = width;
      at.share = width - (at.hasExact ? numbers : 0);
      at.winsWidth = wins;
      at.wins = width - numbers * (at.hasExact ? 2 : 1) - wins;
      at.softWidth = soft;
      at.soft = at.wins - (soft ? gap + soft : 0);
      at.laneWidth = at.soft - gap - at.lane;
      at.height = at.top + n * at.row + 2;
      set(image, { viewBox: `0 0 ${width} ${at.height}`, height: at.height });
      image.style.height = `${at.height}px`;
      set(heads.race, { x: at.lane, y: 16 });
      set(heads.soft, { x: at.soft, y: 16 });
      set(heads.wins, { x: at.wins, y: 16 });
      set(heads.exact, { x: at.exact, y: 16 });
      heads.exact.textContent = at.hasExact ? "exact" : "";
      heads.soft.textContent = small ? "" : isNarrow ? "soft" : "soft choice";
      at.isNarrow = isNarrow;
      lanes.forEach((lane, i) => {
        const y = self.baseline(i);
        const barTop = y - 12;
        set(lane.name, { x: 4, y: y + 3 });
        set(lane.logit, { x: at.lane, y: y - 4 });
        set(lane.noise, { y1: y + STEP, y2: y + STEP });
        set(lane.dot, { cy: y + STEP });
        set(lane.place, { y: y + STEP + 4 });
        set(lane.softEmpty, { x: at.soft, y: y, width: soft, height: soft ? 1 : 0 });
        set(lane.soft, { x: at.soft, y: barTop, height: 12 });
        set(lane.winsEmpty, { x: at.wins, y: y, width: wins, height: 1 });
        set(lane.wins, { x: at.wins, y: barTop, height: 12 });
        set(lane.tick, { y1: barTop - 3, y2: y + 3 });
        set(lane.share, { x: at.share, y: y });
        set(lane.exact, { x: at.exact, y: y });
      });
      set(finish, { y1: at.top - 4, y2: at.height - 2 });
      at.scores = null;
      if (last) show(last);
      if (resized) resized();
    }

    /** The hill of a lane: where the value may fall. */
    function hills(scene) {
      const tall = at.row - at.below - 4;
      lanes.forEach((lane, i) => {
        const y = self.baseline(i);
        let path = `M ${at.lane} ${y}`;
        for (let j = 0; j <= 80; j++) {
          const value = scene.low + ((scene.high - scene.low) * j) / 80;
          const height = (density(value - scene.scores[i]) / 0.368) * tall;
          path += ` L ${(at.lane + (at.laneWidth * j) / 80).toFixed(1)} ${(y - height).toFixed(1)}`;
        }
        set(lane.hill, { d: `${path} L ${at.lane + at.laneWidth} ${y} Z` });
        set(lane.logit, { width: Math.max(0, self.x(scene.scores[i]) - at.lane) });
      });
    }

    function show(scene) {
      last = scene;
      if (!at.width) return;
      const scores = `${scene.scores} ${scene.low}`;
      if (at.scores !== scores) {
        at.scores = scores;
        hills(scene);
      }
      const places = new Map(scene.order.map((item, place) => [item, place + 1]));
      lanes.forEach((lane, i) => {
        const isFirst = places.has(i);
        if (scene.values) {
          const x = Math.min(self.x(scene.values[i]), at.lane + at.laneWidth + 6);
          set(lane.noise, { x1: self.x(scene.scores[i]), x2: x });
          set(lane.dot, { cx: x, r: isFirst ? 8 : 4.5 });
          set(lane.place, { x });
        }
        lane.noise.style.visibility = lane.dot.style.visibility = scene.values ? "visible" : "hidden";
        lane.dot.classList.toggle("race-first", isFirst);
        lane.name.classList.toggle("race-first", isFirst);
        lane.place.textContent = isFirst ? places.get(i) : "";
        if (!small) {
          set(lane.soft, { width: scene.soft ? scene.soft[i] * at.softWidth : 0 });
          lane.share.textContent = percent(scene.shares[i], at.digits);
          lane.exact.textContent = at.hasExact ? percent(scene.exact[i], at.digits) : "";
        }
        set(lane.wins, { width: scene.shares[i] * at.winsWidth });
        const tick = at.wins + scene.exact[i] * at.winsWidth;
        set(lane.tick, { x1: tick, x2: tick });
      });
      const winner = scene.order[0];
      finish.style.visibility = scene.values && winner !== undefined ? "visible" : "hidden";
      if (scene.values && winner !== undefined) {
        const x = Math.min(self.x(scene.values[winner]), at.lane + at.laneWidth + 6);
        set(finish, { x1: x, x2: x });
      }
      const races = `${scene.races.toLocaleString("en")} ${scene.races === 1 ? "race" : "races"}`;
      const long = scene.k > 1 ? `among the first ${scene.k} in ${races}` : `wins in ${races}`;
      heads.wins.textContent = at.isNarrow ? (scene.k > 1 ? `first ${scene.k}` : "wins") : long;
    }

    new ResizeObserver(measure).observe(box);
    measure();
    return self;
  }

  // ---------------------------------------------------------------------------------------- counting

  /** How often each item is among the first k of races 0, 1, 2, ... under a seed. */
  function counter() {
    const self = {
      counts: new Float64Array(LOGITS.length),
      races: 0,
      reset() {
        self.counts.fill(0);
        self.races = 0;
      },
      add(state, count) {
        argumbel.countFirst(scaled(state.logits, state.temperature), state.k, state.seed, self.races, count, self.counts);
        self.races += count;
      },
      get shares() {
        return Array.from(self.counts, (c) => c / Math.max(1, self.races));
      },
    };
    return self;
  }

  /** What the picture shows of a race. progress from 0 to 1: how far the items have run. */
  function sceneOf(state, count, row, progress) {
    const { temperature, k, tau } = state;
    const scores = scaled(state.logits, temperature);
    const race = row === null ? null : argumbel.race(scores, state.seed, row);
    const isOver = race && progress >= 1;
    return {
      scores,
      values: race && Array.from(race.values, (v, i) => scores[i] + (v - scores[i]) * progress),
      order: isOver ? argumbel.firstK(race.values, k) : [],
      soft: isOver ? argumbel.softmax(race.values, tau) : null,
      shares: count.shares,
      exact: argumbel.inclusionProbs(scores, k),
      races: count.races,
      k,
      low: LEAST / temperature - 2,
      high: MOST / temperature + 4.5,
    };
  }

  // ---------------------------------------------------------------------------------------- the page

  const LIMITS = { temperature: [0.3, 5], tau: [0.05, 10] };

  function fromAddress(address) {
    const state = { logits: [...LOGITS], seed: 7, k: 1, temperature: 1, tau: 1, races: 1 };
    const logits = (address.get("logits") || "").split(",").map(Number);
    if (logits.length === LOGITS.length && logits.every((x) => x >= LEAST && x <= MOST)) state.logits = logits;
    for (const [name, [low, high]] of Object.entries(LIMITS)) {
      const value = Number(address.get(name));
      if (value >= low && value <= high) state[name] = value;
    }
    const k = Number(address.get("k"));
    if (Number.isInteger(k) && k >= 1 && k <= LOGITS.length) state.k = k;
    const races = Number(address.get("races"));
    if (Number.isInteger(races) && races >= 1 && races <= MILLION) state.races = races;
    return state;
  }

  function page(host, ui) {
    const address = ui.address();
    const state = fromAddress(address);
    const count = counter();
    const { reducedMotion } = ui;
    // How a run goes on: "one" moves the items, "hundred" shows a race in each frame, "count" counts as fast as it can.
    let mode = null;
    let progress = 1;
    let target = state.races;

    const above = ui.controls(host);
    above.classList.add("play-buttons");
    ui.button(above, { label: "Draw one", main: true, onclick: () => draw(1) });
    ui.button(above, { label: "Draw 100", onclick: () => draw(100) });
    ui.button(above, { label: "Draw a million", onclick: () => draw(MILLION) });
    ui.button(above, { label: "Start again", onclick: restart });
    const seed = ui.whole(above, {
      label: "seed",
      value: state.seed,
      oninput: (value) => change({ seed: value }),
    });
    const written = address.get("seed");
    if (written !== null) {
      const value = seed.parse(written);
      if (value !== null) state.seed = value;
      seed.set(state.seed);
    }

    const handles = [];
    const figure = picture(host, ui, { resized: () => handles.forEach((handle) => handle.place()) });
    const said = ui.live(host);
    show();
    state.logits.forEach((logit, i) =>
      handles.push(
        ui.handle(figure.box, {
          label: `logit of ${NAMES[i]}`,
          orientation: "horizontal",
          min: LEAST,
          max: MOST,
          step: 0.1,
          bigStep: 1,
          value: logit,
          place: (value) => [figure.x(value / state.temperature), figure.baseline(i)],
          from: (x) => figure.value(x) * state.temperature,
          oninput(value) {
            state.logits[i] = value;
            change({});
          },
        })
      )
    );

    const below = ui.controls(host);
    ui.slider(below, {
      label: "the first k =",
      min: 1,
      max: LOGITS.length,
      step: 1,
      value: state.k,
      oninput: (k) => change({ k }),
    });
    ui.slider(below, {
      label: "temperature, before noise:",
      min: LIMITS.temperature[0],
      max: LIMITS.temperature[1],
      log: true,
      digits: 2,
      value: state.temperature,
      oninput: (temperature) => change({ temperature }),
    });
    ui.slider(below, {
      label: "tau, after noise:",
      min: LIMITS.tau[0],
      max: LIMITS.tau[1],
      log: true,
      digits: 2,
      value: state.tau,
      oninput: (tau) => change({ tau }, false),
    });
    const box = ui.python(host);

    const loop = ui.loop(host, step);

    function change(changes, countsAgain = true) {
      Object.assign(state, changes);
      if (mode === "one" || mode === "hundred") finish();
      if (countsAgain) {
        count.reset();
        if (target <= AT_ONCE) count.add(state, target);
        else {
          mode = "count";
          loop.start();
        }
      }
      show();
      handles.forEach((handle) => handle.place());
      if (!mode) settle();
    }

    /** So many more races; the number of races is at most a million. */
    function draw(more) {
      if (mode) finish();
      if (more === MILLION) target = MILLION;
      else if (target + more <= MILLION) target += more;
      else return;
      mode = more === 1 ? "one" : more === 100 ? "hundred" : "count";
      if (target === count.races) mode = null;
      progress = mode === "one" ? 0 : 1;
      if (reducedMotion() && mode !== "count") finish();
      else loop.start();
      show();
      if (!mode) settle();
    }

    function restart() {
      mode = null;
      count.reset();
      target = 0;
      draw(1);
    }

    /** What is still to be drawn, at once. */
    function finish() {
      if (mode === "count" && target - count.races > AT_ONCE) {
        // Too many for one frame: the races counted so far are the sample.
        target = Math.max(1, count.races);
      }
      if (target > count.races) count.add(state, target - count.races);
      mode = null;
      progress = 1;
    }

    function step(seconds) {
      if (mode === "one") {
        progress = Math.min(1, progress + seconds / 0.7);
        if (progress >= 1) finish();
      } else if (mode === "hundred") {
        count.add(state, 1);
        if (count.races >= target) finish();
      } else if (mode === "count") {
        const end = performance.now() + 9;
        while (count.races < target && performance.now() < end) count.add(state, Math.min(2000, target - count.races));
        if (count.races >= target) finish();
      }
      show();
      if (!mode) settle();
      return mode !== null;
    }

    function show() {
      const row = mode === "one" ? target - 1 : count.races > 0 ? count.races - 1 : null;
      const scene = sceneOf(state, count, row, mode === "one" ? ui.ease(progress) : 1);
      figure.show(scene);
      said.say(mode === "one" ? `Race ${target.toLocaleString("en")}:` : wordsOf(scene));
    }

    function wordsOf(scene) {
      if (!scene.order.length) return "";
      const names = scene.order.map((i) => NAMES[i]);
      const value = scene.values[scene.order[0]].toFixed(2);
      const others = names.length > 1 ? `; the first ${names.length} are ${names.join(", ")}` : "";
      const gap = Math.max(...scene.shares.map((share, i) => Math.abs(share - scene.exact[i])));
      return `Race ${scene.races.toLocaleString("en")}: ${names[0]} wins with ${value}${others}. Largest gap between share ` +
        `and exact probability: ${(100 * gap).toFixed(2)} percentage points.`;
    }

    /** What is done when nothing moves any more: the Python lines, the address, and the words for who does not see. */
    function settle() {
      const scene = sceneOf(state, count, count.races - 1, 1);
      const shares = scene.shares.map((share, i) => `${NAMES[i]} ${percent(share, 1)} (exact ${percent(scene.exact[i], 1)})`);
      const wins = state.k > 1 ? `Among the first ${state.k}` : "Wins";
      figure.describe(`A race of six items. ${wordsOf(scene)} ${wins} in ${count.races} races: ${shares.join(", ")}.`);
      box.set(...pythonOf(state, count, scene, ui));
      address.set({
        logits: state.logits.join(","),
        seed: String(state.seed),
        k: String(state.k),
        temperature: String(state.temperature),
        tau: String(state.tau),
        races: String(count.races),
      });
    }

    if (state.races > 1) {
      change({});
    } else {
      target = 0;
      draw(1);
    }
    return { state, count, get isRunning() { return mode !== null; } };
  }

  /** The Python lines, and what they print. */
  function pythonOf(state, count, scene, ui) {
    const n = LOGITS.length;
    const { k, temperature, tau } = state;
    const heated = temperature === 1 ? "logits" : `logits / ${temperature}`;
    const option = temperature === 1 ? "" : `temperature=${temperature}, `;
    const races = count.races;
    const lines = [
      "import torch",
      "import argumbel as ag",
      "",
      `logits = torch.tensor(${ui.pythonFloats(state.logits)})`,
      `noise = ag.KeyedNoise(${state.seed})  # each row is a race`,
      `rows = logits.expand(${races}, -1)`,
      k === 1
        ? `first = ag.gumbel_max(rows, ${option}noise=noise).indices`
        : `first = ag.gumbel_topk(rows, ${k}, ${option}noise=noise).indices`,
      `print(first.flatten().bincount(minlength=${n}).tolist())`,
      k === 1
        ? `exact = torch.softmax(${heated}, -1)`
        : `exact = ag.inclusion_probs(${heated}, ${k})`,
      "print([round(p, 3) for p in exact.tolist()])",
      "",
      `last = ag.KeyedNoise(${state.seed}, rows=[${races - 1}])  # the race on screen`,
      `values = ag.gumbel_topk(logits, ${k}, ${option}noise=last)`,
      `print(["${NAMES}"[i] for i in values.indices], round(values.values[0].item(), 2))`,
      `soft = ag.gumbel_softmax(${heated}, tau=${tau}, noise=last)`,
      "print([round(y, 3) for y in soft.tolist()])",
    ];
    const rounded = (numbers) => ui.pythonFloats(numbers.map((x) => Number(x.toFixed(3))));
    const names = scene.order.map((i) => `'${NAMES[i]}'`).join(", ");
    const value = Number(scene.values[scene.order[0]].toFixed(2));
    const prints = [
      `[${Array.from(count.counts).join(", ")}]`,
      rounded(scene.exact),
      `[${names}] ${Number.isInteger(value) ? `${value}.0` : value}`,
      rounded(scene.soft),
    ];
    return [lines.join("\n"), prints.join("\n")];
  }

  // ---------------------------------------------------------------------------------------- the front page

  function small(host, ui) {
    const state = { logits: LOGITS, seed: 7, k: 1, temperature: 1, tau: 1 };
    const count = counter();
    const ROUND = 400; // races before it starts again, under the next seed
    let elapsed = 0;
    let isPaused = ui.reducedMotion();
    const figure = picture(host, ui, { small: true });
    const row = ui.controls(host);
    const button = ui.button(row, { label: "", onclick: press });
    const loop = ui.loop(host, step);
    figure.describe("A race of six items: each runs as far as its logit plus its noise. Bars count the wins of many races, and " +
      "approach marks that show the softmax of the logits.");

    /** Seconds that a race takes: races come faster and faster. */
    const pace = () => Math.max(0.08, 1.6 * 0.93 ** count.races);

    function show(progress) {
      // While the items run, the race is not counted yet.
      figure.show(sceneOf(state, count, progress < 1 ? count.races : Math.max(0, count.races - 1), progress));
    }

    function step(seconds) {
      elapsed += seconds;
      if (count.races >= ROUND) {
        if (elapsed < 4) return true;
        count.reset();
        state.seed += 1;
        elapsed = 0;
      }
      const time = pace();
      const run = time > 0.3 ? 0.45 * time : 0; // the time of running; the rest is for looking
      if (isRunning && elapsed >= run) {
        count.add(state, 1);
        isRunning = false;
        show(1);
      } else if (isRunning) {
        show(ui.ease(elapsed / run));
      }
      if (!isRunning && elapsed >= time && count.races < ROUND) {
        elapsed = 0;
        isRunning = true;
      }
      return true;
    }

    function press() {
      if (ui.reducedMotion()) {
        count.add(state, 1);
        show(1);
        return;
      }
      isPaused = !isPaused;
      if (isPaused) loop.stop();
      else loop.start();
      button.textContent = isPaused ? "Run" : "Pause";
    }

    let isRunning = true;
    if (ui.reducedMotion()) {
      count.add(state, 200);
      show(1);
      button.textContent = "Draw one";
    } else {
      show(0);
      button.textContent = "Pause";
      loop.start();
    }
    return { state, count };
  }

  argumbel.play("race", page);
  argumbel.play("race-small", small);
})(globalThis);
