/* The page "Rows": a stream of rows passes a reservoir, whose threshold rises; and samples of two partitions are merged into
 * the sample of the whole. All is that of argumbel.tables.Reservoir, for the same seed and weights. */
(function (root) {
  "use strict";

  const argumbel = root.argumbel;
  const ROWS = 300;
  const MOST = 12; // rows in the sample

  // The weights of the table are noise, too: exponential, of row 1 under seed 0. The races use row 0.
  const WEIGHTS = argumbel.noises(0, 1, ROWS, new Float32Array(ROWS), "exponential");
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const byWeight = range(ROWS).sort((a, b) => WEIGHTS[a] - WEIGHTS[b] || a - b);

  const ORDERS = {
    stored: { label: "as stored", ids: range(ROWS), code: "stream = table" },
    backwards: { label: "backwards", ids: range(ROWS).reverse(), code: `stream = table.take(list(range(${ROWS - 1}, -1, -1)))` },
    light: { label: "light rows first", ids: byWeight, code: 'stream = table.sort_by("weight")' },
  };
  const SPLITS = {
    halves: {
      label: "first and second half",
      of: (id) => (id < ROWS / 2 ? 0 : 1),
      code: [`parts = [table.slice(0, ${ROWS / 2}), table.slice(${ROWS / 2})]`],
    },
    turns: {
      label: "row by row in turn",
      of: (id) => id % 2,
      code: [`parts = [table.take(list(range(start, ${ROWS}, 2))) for start in (0, 1)]`],
    },
    weight: {
      label: "light and heavy",
      of: (id) => (WEIGHTS[id] < 1 ? 0 : 1),
      code: ['is_light = pc.less(table["weight"], 1)', "parts = [table.filter(is_light), table.filter(pc.invert(is_light))]"],
    },
  };

  const inOrder = (times) => (a, b) => times[a] - times[b] || a - b;

  /** The times of all rows under a seed. */
  const arrivals = (seed) => Array.from(WEIGHTS, (weight, id) => argumbel.arrival(seed, id, weight));

  /** The sample of some rows: their ids in the order of arrival, and the threshold, the first time that is not drawn. */
  function sampleOf(ids, times, k) {
    const sorted = [...ids].sort(inOrder(times));
    return { ids: sorted.slice(0, k), threshold: sorted.length > k ? times[sorted[k]] : Infinity };
  }

  /** What the stream does, row by row: threshold[p] after p rows; the place in the stream at which a row entered, and the
   * place at which another one pushed it out. */
  function passing(ids, times, k) {
    const thresholds = [Infinity];
    const leaves = new Map();
    let kept = [];
    ids.forEach((id, place) => {
      if (times[id] < thresholds[place]) {
        leaves.set(id, Infinity);
        kept.push(id);
        kept.sort(inOrder(times));
        for (const out of kept.slice(k, k + 1)) leaves.set(out, place);
      }
      // Beside the k rows the first one beyond them is kept: its time is the threshold.
      kept = kept.slice(0, k + 1);
      thresholds.push(kept.length > k ? times[kept[k]] : Infinity);
    });
    return { thresholds, leaves };
  }

  // ---------------------------------------------------------------------------------------- what the figures share

  const ui = argumbel.ui;
  const address = ui.address();
  const state = { seed: 2, k: 8, order: "stored", split: "halves" };
  const k = Number(address.get("k"));
  if (Number.isInteger(k) && k >= 1 && k <= MOST) state.k = k;
  if (Object.hasOwn(ORDERS, address.get("order"))) state.order = address.get("order");
  if (Object.hasOwn(SPLITS, address.get("split"))) state.split = address.get("split");
  const seed = address.get("seed");
  if (seed !== null && /^-?\d{1,19}$/.test(seed) && BigInt.asIntN(64, BigInt(seed)) === BigInt(seed)) {
    state.seed = Number.isSafeInteger(Number(seed)) ? Number(seed) : BigInt(seed);
  }
  let times = arrivals(state.seed);
  const listeners = [];

  function change(changes) {
    Object.assign(state, changes);
    if ("seed" in changes) times = arrivals(state.seed);
    address.set(Object.fromEntries(Object.entries(changes).map(([name, value]) => [name, String(value)])));
    for (const listener of listeners) listener();
  }

  const HEAD = [
    "import argumbel as ag",
    "from argumbel.tables import Reservoir",
    "",
    `weight = ag.KeyedNoise(0, rows=[1]).exponential((1, ${ROWS}))[0]`,
    `table = pa.table({"id": range(${ROWS}), "weight": weight.numpy()})`,
  ];
  const list = (ids) => `[${ids.join(", ")}]`;
  const digits = (time) => (time === Infinity ? "inf" : time.toFixed(6));
  const short = (time) => (time === Infinity ? "none yet" : time < 0.0995 ? time.toPrecision(2) : time.toFixed(2));

  // ---------------------------------------------------------------------------------------- the stream

  function stream(host) {
    let seen = ROWS;
    let part = 0; // of the next row
    let passed = null;

    const above = ui.controls(host);
    above.classList.add("play-buttons");
    const run = ui.button(above, { label: "Run", main: true, onclick: () => (loop.running ? stop() : start()) });
    ui.button(above, { label: "Next row", onclick: () => (stop(), move(seen === ROWS ? 1 : seen + 1)) });
    ui.whole(above, { label: "seed", value: state.seed, oninput: (value) => change({ seed: value }) });

    const figure = ui.canvas(host, { height: (width) => (width < 560 ? 300 : 360), draw });
    const said = ui.live(host);
    const below = ui.controls(host);
    const place = ui.slider(below, {
      label: "rows seen:",
      min: 1,
      max: ROWS,
      step: 1,
      value: seen,
      oninput: (value) => {
        stop();
        move(value);
      },
    });
    ui.slider(below, { label: "rows to keep, k =", min: 1, max: MOST, step: 1, value: state.k, oninput: (k) => change({ k }) });
    ui.choice(below, {
      label: "order of the stream",
      options: Object.entries(ORDERS).map(([name, { label }]) => [name, label]),
      value: state.order,
      oninput: (order) => change({ order }),
    });
    const box = ui.python(host);

    const loop = ui.loop(host, (seconds) => {
      part += seconds * (12 + 0.35 * seen);
      const rows = Math.floor(part);
      part -= rows;
      if (rows) move(Math.min(ROWS, seen + rows));
      if (seen === ROWS) stop();
      return loop.running;
    });

    function start() {
      if (seen === ROWS) move(1);
      run.textContent = "Pause";
      loop.start();
    }

    function stop() {
      loop.stop();
      run.textContent = "Run";
      tell();
    }

    function move(to) {
      seen = to;
      place.set(seen);
      say();
      figure.redraw();
      if (!loop.running) tell();
    }

    function update() {
      passed = passing(ORDERS[state.order].ids, times, state.k);
      move(seen);
    }

    function say() {
      const id = ORDERS[state.order].ids[seen - 1];
      const before = passed.thresholds[seen - 1];
      const row = `Row ${id} has weight ${WEIGHTS[id].toFixed(2)} and arrives at ${short(times[id])}.`;
      const kept = passed.leaves.get(id);
      const isIn = times[id] < before && kept !== seen - 1;
      const what =
        before === Infinity && seen <= state.k
          ? "The reservoir is not full, so the row is kept."
          : isIn
            ? "This is before the last row of the sample, so the row is kept, and the last row is pushed out."
            : "This is after all rows of the sample, so the row is passed over.";
      said.say(`${row} ${what}`);
    }

    /** What is done when nothing moves: the Python lines, and the words for who does not see. */
    function tell() {
      const { order, k, seed } = state;
      const ids = ORDERS[order].ids.slice(0, seen);
      const found = sampleOf(ids, times, k);
      const entered = ids.filter((id) => passed.leaves.has(id) && passed.leaves.get(id) !== ORDERS[order].ids.indexOf(id));
      figure.describe(
        `${ROWS} rows in the order of the stream, by their time of arrival, early rows above. After ${seen} rows the sample ` +
          `is rows ${found.ids.join(", ")}; the threshold is ${short(found.threshold)}; ${entered.length} rows were in the ` +
          "sample at some time."
      );
      box.set(
        [
          "import pyarrow as pa",
          ...HEAD,
          ORDERS[order].code,
          `reservoir = Reservoir(${k}, weights="weight", key="id", seed=${seed})`,
          `for row in range(0, ${seen}, 10):`,
          `    reservoir.update(stream.slice(row, min(10, ${seen} - row)))`,
          "",
          "sample = reservoir.result()",
          'print(sample.table["id"].to_pylist())',
          'print(*(f"{time:.6f}" for time in sample.table["_key"].to_pylist()))',
          'print(f"{sample.thresholds[0]:.6f}")',
        ].join("\n"),
        [list(found.ids), found.ids.map((id) => digits(times[id])).join(" "), digits(found.threshold)].join("\n")
      );
    }

    function draw(context, width, height, colours) {
      const isNarrow = width < 560;
      const [left, right, top, bottom] = [isNarrow ? 44 : 54, isNarrow ? 16 : 24, 14, 34];
      const lowest = -2.6; // of -log(time); the few rows below are drawn at the lower edge
      const highest = Math.max(5.5, 0.5 - Math.log(Math.min(...times)));
      const x = (p) => left + ((p + 0.5) / ROWS) * (width - left - right);
      const y = (time) => {
        const value = Math.min(highest, Math.max(lowest, -Math.log(time)));
        return top + ((highest - value) / (highest - lowest)) * (height - top - bottom);
      };
      const font = (size, weight = 400) => `${weight} ${size}px ${getComputedStyle(host).fontFamily}`;

      // Times to the left, places in the stream below.
      context.font = font(13);
      context.fillStyle = colours.soft;
      context.strokeStyle = colours.line;
      context.lineWidth = 1;
      context.textAlign = "right";
      context.textBaseline = "middle";
      for (const time of [0.00001, 0.0001, 0.001, 0.01, 0.1, 1, 10].filter((t) => -Math.log(t) < highest)) {
        context.fillText(String(time), left - 8, y(time));
        context.beginPath();
        context.moveTo(left, y(time));
        context.lineTo(width - right, y(time));
        context.stroke();
      }
      context.textBaseline = "alphabetic";
      context.textAlign = "left";
      context.fillText(isNarrow ? "time of arrival (log scale)" : "time of arrival (logarithmic scale): early rows are above", left, height - 8);
      context.textAlign = "right";
      context.fillText("the stream →", width - right, height - 8);

      // Rows: passed over, pushed out, kept.
      const { ids } = ORDERS[state.order];
      const inside = [];
      for (let p = 0; p < seen; p++) {
        const id = ids[p];
        const radius = (isNarrow ? 0.75 : 1) * (1.6 + 3.2 * Math.sqrt(WEIGHTS[id]));
        const leaves = passed.leaves.get(id);
        context.beginPath();
        context.arc(x(p), y(times[id]), radius, 0, 2 * Math.PI);
        if (leaves === undefined || leaves === p) {
          context.globalAlpha = 0.35;
          context.fillStyle = colours.faint;
          context.fill();
        } else if (leaves < seen) {
          context.globalAlpha = 0.8;
          context.strokeStyle = colours.series[1];
          context.lineWidth = 1.5;
          context.stroke();
        } else {
          context.globalAlpha = 1;
          context.fillStyle = colours.series[1];
          context.fill();
          inside.push([p, radius]);
        }
        context.globalAlpha = 1;
      }

      // The threshold rises, step by step.
      context.strokeStyle = colours.ink;
      context.lineWidth = 1.5;
      context.beginPath();
      let isBegun = false;
      for (let p = 0; p <= seen; p++) {
        if (passed.thresholds[p] === Infinity) continue;
        const level = y(passed.thresholds[p]);
        if (isBegun) context.lineTo(x(p - 1), level);
        else context.moveTo(x(p - 1), level);
        context.lineTo(x(p), level);
        isBegun = true;
      }
      context.stroke();
      context.font = font(13);
      context.fillStyle = colours.ink;
      if (isBegun) {
        const isLeft = seen < ROWS * 0.3;
        context.textAlign = isLeft ? "left" : "right";
        halo(`threshold ${short(passed.thresholds[seen])}`, x(seen) + (isLeft ? 8 : -2), y(passed.thresholds[seen]) + 16);
      }
      context.font = font(13, 700);
      context.fillStyle = colours.series[1];
      context.textAlign = "left";
      const taken = inside.map(([p, radius]) => {
        const [cx, cy] = [x(p), y(times[ids[p]])];
        return [cx - radius, cy - radius, cx + radius, cy + radius];
      });
      for (const [p, radius] of inside) {
        const text = String(ids[p]);
        const wide = context.measureText(text).width;
        const [cx, cy, away] = [x(p), y(times[ids[p]]), radius + 3];
        // Beside the dot, above or below it: the first place where no other dot or label lies.
        const places = [
          [cx + away, cy + 4], [cx - away - wide, cy + 4], [cx - wide / 2, cy - away], [cx - wide / 2, cy + away + 10],
          [cx + away, cy - 6], [cx + away, cy + 14], [cx - away - wide, cy - 6], [cx - away - wide, cy + 14],
        ];
        const isFree = ([left, base]) =>
          left > 0 && left + wide < width &&
          taken.every(([x1, y1, x2, y2]) => left > x2 || left + wide < x1 || base - 10 > y2 || base < y1);
        const [left, base] = places.find(isFree) || places[0];
        taken.push([left, base - 10, left + wide, base]);
        halo(text, left, base);
      }

      function halo(text, atX, atY) {
        context.strokeStyle = colours.paper;
        context.lineWidth = 4;
        context.lineJoin = "round";
        context.strokeText(text, atX, atY);
        context.fillText(text, atX, atY);
      }
    }

    listeners.push(update);
    passed = passing(ORDERS[state.order].ids, times, state.k);
    if (ui.reducedMotion()) move(ROWS);
    else {
      move(1);
      start();
    }
    return {
      state,
      get seen() {
        return seen;
      },
      get isRunning() {
        return loop.running;
      },
    };
  }

  // ---------------------------------------------------------------------------------------- two partitions

  function partitions(host) {
    const { svg } = ui;
    const above = ui.controls(host);
    ui.choice(above, {
      label: "partitions",
      options: Object.entries(SPLITS).map(([name, { label }]) => [name, label]),
      value: state.split,
      oninput: (split) => change({ split }),
    });
    ui.button(above, { label: "Merge again", onclick: again });
    const image = svg("svg", { role: "img" });
    const frame = ui.html("div", { class: "play-figure rows" }, image);
    host.append(frame);
    const said = ui.live(host);
    const box = ui.python(host);
    let progress = 1;
    let width = 0;

    const loop = ui.loop(host, (seconds) => {
      progress = Math.min(1, progress + seconds / 1.6);
      draw();
      return progress < 1;
    });

    function again() {
      progress = ui.reducedMotion() ? 1 : 0;
      draw();
      loop.start();
    }

    function samples() {
      const { of } = SPLITS[state.split];
      const parts = [0, 1].map((side) => range(ROWS).filter((id) => of(id) === side));
      const drawn = parts.map((ids) => sampleOf(ids, times, state.k));
      // What a reservoir keeps is its sample and its threshold's row; of these the merged sample is made.
      const merged = sampleOf([...drawn[0].ids, ...drawn[1].ids], times, state.k).ids;
      return { parts, drawn, merged, whole: sampleOf(range(ROWS), times, state.k).ids };
    }

    function draw() {
      const { parts, drawn, merged } = samples();
      const isNarrow = width < 560;
      const step = isNarrow ? 28 : 30;
      const top = 64;
      const height = top + state.k * step;
      const columns = [isNarrow ? 62 : width * 0.2, width * 0.5, width - (isNarrow ? 62 : width * 0.2)];
      const y = (place) => top + place * step;
      image.textContent = "";
      image.setAttribute("viewBox", `0 0 ${width} ${height}`);
      image.style.height = `${height}px`;
      const title = (x, anchor, first, second, kind) =>
        image.append(
          svg("text", { x, y: 16, "text-anchor": anchor, class: `rows-title ${kind}`, text: first }),
          svg("text", { x, y: 34, "text-anchor": anchor, class: "rows-under", text: second })
        );
      title(isNarrow ? 0 : columns[0], isNarrow ? "start" : "middle", isNarrow ? "part 1" : "first partition", `${parts[0].length} rows`, "rows-0");
      title(columns[1], "middle", "merged", isNarrow ? `of ${ROWS}` : `the sample of all ${ROWS} rows`, "");
      title(isNarrow ? width : columns[2], isNarrow ? "end" : "middle", isNarrow ? "part 2" : "second partition", `${parts[1].length} rows`, "rows-1");
      const shown = ui.ease((progress - 0.7) / 0.3);
      const radius = (id) => 2 + 3 * Math.sqrt(WEIGHTS[id]);
      const dots = [];
      drawn.forEach(({ ids }, side) => {
        const isLeft = side === 0;
        ids.forEach((id, place) => {
          const to = merged.indexOf(id);
          const kind = `rows-${side} ${to < 0 ? "rows-out" : ""}`;
          const x = columns[2 * side];
          if (to >= 0) {
            const bend = (columns[1] - x) * 0.5;
            image.append(
              svg("path", {
                d: `M ${x} ${y(place)} C ${x + bend} ${y(place)}, ${columns[1] - bend} ${y(to)}, ${columns[1]} ${y(to)}`,
                pathLength: 1,
                "stroke-dasharray": 1,
                "stroke-dashoffset": 1 - ui.ease(progress / 0.8),
                class: `rows-way rows-${side}`,
              })
            );
          }
          dots.push(
            svg("circle", { cx: x, cy: y(place), r: radius(id), class: `rows-dot ${kind}` }),
            svg("text", {
              x: x + (isLeft ? -1 : 1) * 14,
              y: y(place) + 5,
              "text-anchor": isLeft ? "end" : "start",
              class: `rows-name ${kind}`,
              text: isNarrow ? id : `row ${id}`,
            })
          );
          if (!isNarrow) {
            dots.push(
              svg("text", {
                x: x + (isLeft ? -1 : 1) * 84,
                y: y(place) + 5,
                "text-anchor": isLeft ? "end" : "start",
                class: `rows-under ${to < 0 ? "rows-out" : ""}`,
                text: short(times[id]),
              })
            );
          }
        });
      });
      merged.forEach((id, place) => {
        const side = SPLITS[state.split].of(id);
        dots.push(
          svg("circle", { cx: columns[1], cy: y(place), r: radius(id), opacity: shown, class: `rows-dot rows-${side}` }),
          svg("text", {
            x: columns[1],
            y: y(place) - 8,
            "text-anchor": "middle",
            opacity: shown,
            class: `rows-name rows-centre rows-${side}`,
            text: id,
          })
        );
      });
      image.append(...dots);
    }

    function update() {
      progress = 1;
      if (width) draw();
      const { parts, drawn, merged, whole } = samples();
      const { k, seed, split } = state;
      const isSame = String(merged) === String(whole);
      const from = drawn.map(({ ids }) => merged.filter((id) => ids.includes(id)).length);
      said.say(
        `Merged: rows ${merged.join(", ")}; ${from[0]} of the first partition and ${from[1]} of the second. The sample of the ` +
          `whole table is ${isSame ? "the same" : "another one"}.`
      );
      image.setAttribute(
        "aria-label",
        `The first partition has ${parts[0].length} rows, and its sample is rows ${drawn[0].ids.join(", ")}. The second has ` +
          `${parts[1].length} rows, and its sample is rows ${drawn[1].ids.join(", ")}. Merged they are rows ${merged.join(", ")}.`
      );
      box.set(
        [
          "import pyarrow as pa",
          ...(split === "weight" ? ["import pyarrow.compute as pc"] : []),
          ...HEAD,
          ...SPLITS[split].code,
          "first, second, whole = (",
          `    Reservoir(${k}, weights="weight", key="id", seed=${seed}).update(rows)`,
          "    for rows in [*parts, table]",
          ")",
          "for reservoir in (first, second):",
          '    print(reservoir.result().table["id"].to_pylist())',
          "",
          "merged = first.merge(second).result().table",
          'print(merged["id"].to_pylist(), merged == whole.result().table)',
        ].join("\n"),
        [list(drawn[0].ids), list(drawn[1].ids), `${list(merged)} ${isSame ? "True" : "False"}`].join("\n")
      );
    }

    new ResizeObserver(() => {
      if (frame.clientWidth === width) return;
      width = frame.clientWidth;
      draw();
    }).observe(frame);
    listeners.push(update);
    update();
    return { state };
  }

  argumbel.play("rows", stream);
  argumbel.play("rows-merge", partitions);
})(globalThis);
