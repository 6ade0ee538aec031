/* The page "Reverse": the noise that could have been, given the winner, and what would have won under other logits. */
(function (root) {
  "use strict";

  const { argumbel } = root;
  const { laws } = argumbel;
  const { numbers, seedIn, fixed, rounded, pythonRound } = argumbel.marks;
  const CLASSES = ["a", "b", "c", "d"];
  const N = CLASSES.length;
  const NUM_WORLDS = 500;
  const LEAST = -3;
  const MOST = 3;

  argumbel.play("reverse", (host, ui) => {
    const written = ui.address();
    const state = {
      logits: [0.8, 0.4, -0.3, -0.7], other: [-0.3, 0.4, 0, 0.55], seed: 7, known: null, world: 0, isAfter: false,
    };
    readAddress();
    const model = {};
    let noise = null;
    let drawn = null; // the seed of the noise

    function readAddress() {
      for (const name of ["logits", "other"]) {
        const values = numbers(written.get(name), N);
        if (values && values.every((x) => x >= LEAST && x <= MOST)) state[name] = values;
      }
      const seed = seedIn(written.get("seed"));
      if (seed !== null) state.seed = seed;
      const known = CLASSES.indexOf(written.get("known"));
      if (known >= 0) state.known = known;
      const [world] = numbers(written.get("world"), 1) || [-1];
      if (Number.isInteger(world) && world >= 0 && world < NUM_WORLDS) state.world = world;
    }

    // ---------------------------------------------------------------- what is computed

    function compute() {
      if (drawn !== state.seed) {
        noise = new Float32Array(N * NUM_WORLDS);
        for (let row = 0; row < NUM_WORLDS; row++) {
          argumbel.noises(state.seed, row, N, noise.subarray(N * row, N * row + N));
        }
        drawn = state.seed;
      }
      const x = state.logits.map(Math.fround);
      const other = state.other.map(Math.fround);
      const { known } = state;
      const values = new Float64Array(noise.length);
      const before = known === null ? laws.winners(x, noise) : new Uint8Array(NUM_WORLDS).fill(known);
      const after = known === null ? laws.winners(other, noise) : new Uint8Array(NUM_WORLDS);
      for (let world = 0; world < NUM_WORLDS; world++) {
        const at = N * world;
        if (known === null) {
          for (let i = 0; i < N; i++) values[at + i] = x[i] + noise[at + i];
        } else {
          laws.posterior(x, noise, at, known, values, at);
          after[world] = laws.counterfactual(x, noise, at, known, other);
        }
      }
      const p = laws.softmax(x);
      const given = p.map((_, i) => laws.counterfactualProbs(x, i, other));
      const joint = given.map((row, i) => row.map((v) => v * p[i]));
      const counts = p.map(() => new Array(N).fill(0));
      for (let world = 0; world < NUM_WORLDS; world++) counts[before[world]][after[world]]++;
      Object.assign(model, {
        x, other, known, values, before, after, p, q: laws.softmax(other), given, joint, counts, world: state.world,
        isAfter: state.isAfter,
      });
    }
    compute();

    // ---------------------------------------------------------------- what is shown

    const top = ui.controls(host);
    const grid = ui.html("div", { class: "play-worlds" });
    host.append(grid);
    const place = (name) => {
      const element = ui.html("div", { class: `play-at-${name}` });
      grid.append(element);
      return element;
    };
    const height = (width) => Math.round(Math.max(300, Math.min(width * 0.85, root.innerHeight * 0.52)));
    const racesPlace = place("races");
    const races = argumbel.worlds.races(racesPlace, model, {
      classes: CLASSES, height, least: LEAST, most: MOST,
      onworld: (world) => change({ world }),
      onwinner: (known) => change({ known }, true),
      onlogit(isAfter, item, value) {
        const name = isAfter ? "other" : "logits";
        change({ [name]: state[name].map((x, i) => (i === item ? Number(value.toFixed(2)) : x)) });
      },
    });
    racesPlace.append(
      ui.html("p", {
        class: "play-note",
        text:
          "Values of logit + noise. Drag the rings: the logit before (open), the logit after (filled). " +
          "Click a letter: it has won. Click a dot to follow its world.",
      })
    );
    const winner = ui.choice(top, {
      label: "The winner is",
      options: [[null, "not known"], ...CLASSES.map((name, i) => [i, name])],
      value: state.known,
      oninput: (known) => change({ known }, true),
    });
    const view = ui.choice(top, {
      label: "Races under the logits", options: [[false, "before"], [true, "after"]], value: state.isAfter,
      oninput: (isAfter) => change({ isAfter }, true),
    });

    const flowPlace = place("flow");
    const flow = argumbel.worlds.flow(flowPlace, model, { classes: CLASSES, height });
    const flowRow = ui.controls(flowPlace);
    const move = ui.button(flowRow, {
      label: "Let the worlds flow", main: true,
      onclick: () => {
        if (flow.motion.running) flow.motion.stop();
        else flow.motion.start();
        move.textContent = flow.motion.running ? "Stop" : "Let the worlds flow";
      },
    });
    if (ui.reducedMotion()) move.hidden = true;
    const world = ui.whole(flowRow, {
      label: "Follow world", min: 0, max: NUM_WORLDS - 1, value: state.world,
      oninput: (value) => change({ world: value }),
    });
    const seed = ui.whole(flowRow, {
      label: "Seed", value: state.seed, oninput: (value) => change({ seed: value }, true),
    });

    const textPlace = place("text");
    const said = ui.live(textPlace);
    const caption = ui.html("caption");
    const body = ui.html("tbody");
    const heads = CLASSES.map((name, j) => ui.html("th", { scope: "col", class: `play-ink-${j + 1}`, text: name }));
    const corner = ui.html("td", { text: "before \\ after" });
    const head = ui.html("thead", {}, ui.html("tr", {}, corner, ...heads));
    textPlace.append(ui.html("table", { class: "play-table" }, caption, head, body));
    const box = ui.python(place("python"));

    function table() {
      const text = (x) => (x === 0 ? "0" : x.toFixed(3)); // a zero that is exact stands out
      const exact = state.known === null ? model.joint : model.given;
      const cell = (i, j) =>
        ui.html(
          "td", { class: i === j ? "" : "play-changed" },
          ui.html("span", { class: "play-exact", text: text(exact[i][j]) }),
          ui.html("span", { class: "play-drawn", text: text(model.counts[i][j] / NUM_WORLDS) })
        );
      const what = state.known === null ? "of both winners" : `after, given that ${CLASSES[state.known]} won before`;
      caption.textContent = `Exact probabilities ${what}; below, the shares of ${NUM_WORLDS} worlds.`;
      const rows = CLASSES.map((name, i) => i).filter((i) => state.known === null || state.known === i);
      body.replaceChildren(
        ...rows.map((i) =>
          ui.html(
            "tr", {},
            ui.html("th", { scope: "row", class: `play-ink-${i + 1}`, text: CLASSES[i] }),
            ...CLASSES.map((_, j) => cell(i, j))
          )
        )
      );
    }

    function tell() {
      const { known, before, after } = model;
      const changed = before.reduce((sum, i, row) => sum + (after[row] !== i), 0);
      const exact =
        known === null ? 1 - model.joint.reduce((sum, row, i) => sum + row[i], 0) : 1 - model.given[known][known];
      const [first, second] = [before, after].map((winners) => CLASSES[winners[state.world]]);
      said.say(
        `${changed} of ${NUM_WORLDS} worlds change their mind; the exact probability is ${exact.toFixed(3)}. ` +
          `In world ${state.world}, ${first} won before, and ${first === second ? "still wins" : `${second} wins`} after.`
      );
      const given = known === null ? "" : `, in all of which ${CLASSES[known]} wins before`;
      races.figure.describe(
        `Four columns of dots: the values of ${CLASSES.join(", ")} in ${NUM_WORLDS} races${given}. Logits before ` +
          `(${fixed(state.logits)}), after (${fixed(state.other)}). The races are shown as they run ` +
          `${state.isAfter ? "after" : "before"}.`
      );
      flow.figure.describe(
        `Bands from the winner before, with probabilities (${fixed(model.p, 3)}), to the winner after, with ` +
          `probabilities (${fixed(model.q, 3)}). ${changed} of ${NUM_WORLDS} worlds change. The table has the numbers.`
      );
    }

    function python() {
      const { known } = state;
      const floats = (v) => ui.pythonFloats(v);
      const values = Array.from(model.values.subarray(N * state.world, N * state.world + N));
      const start = [
        "import torch",
        "import argumbel as ag",
        "from argumbel import coupling",
        "",
        `logits = torch.tensor(${floats(state.logits)})`,
        `new_logits = torch.tensor(${floats(state.other)})`,
        `noise = ag.KeyedNoise(seed=${state.seed})`,
      ];
      const all = [
        `x = logits.expand(${NUM_WORLDS}, ${N})`,
        `y = new_logits.expand(${NUM_WORLDS}, ${N})`,
        `values = x + noise.gumbel(x.shape)`,
        "before, after = coupling.gumbel_coupling(x, y, noise=noise)",
        `pairs = (${N} * before + after).bincount(minlength=${N * N})`,
        `for row in pairs.view(${N}, ${N}).tolist():`,
        "    print(row)",
        "",
        "# the exact probabilities of both winners",
        "probs = coupling.counterfactual_probs(",
        `    x[:${N}], torch.arange(${N}), y[:${N}]`,
        ")",
        "joint = logits.softmax(-1)[:, None] * probs",
        "for row in joint.tolist():",
        "    print([round(v, 3) for v in row])",
      ];
      const one = [
        `won = torch.tensor(${known})`,
        "values = ag.posterior_gumbel(",
        `    logits.expand(${NUM_WORLDS}, ${N}), won.expand(${NUM_WORLDS}), noise=noise`,
        ")",
        "after = ag.counterfactual(",
        `    logits, won, new_logits, ${NUM_WORLDS}, noise=noise`,
        ")",
        `print(after.bincount(minlength=${N}).tolist())`,
        "",
        "# the exact probabilities",
        "probs = coupling.counterfactual_probs(logits, won, new_logits)",
        "print([round(v, 3) for v in probs.tolist()])",
      ];
      const matrix = (rows, write) => `[${rows.map(write).join(", ")}]`;
      const row = (v) => rounded(v, 3);
      box.set(
        [
          ...start, ...(known === null ? all : one),
          "",
          `# the values of world ${state.world}, before`,
          `print([round(v, 2) for v in values[${state.world}].tolist()])`,
        ].join("\n"),
        [
          (known === null ? model.counts : [model.counts[known]]).map((v) => `[${v.join(", ")}]`).join("\n"),
          known === null ? model.joint.map(row).join("\n") : row(model.given[known]),
          matrix(values, (v) => pythonRound(v, 2)),
        ].join("\n")
      );
    }

    function show(isSmooth) {
      races.update(isSmooth);
      flow.update();
      table();
      tell();
      python();
    }

    function change(changes, isSmooth = false) {
      Object.assign(state, changes);
      const known = state.known === null ? null : CLASSES[state.known];
      const shared = { logits: state.logits, other: state.other, seed: state.seed, world: state.world };
      written.set({ ...Object.fromEntries(Object.entries(shared).map(([name, value]) => [name, String(value)])), known });
      winner.set(state.known);
      view.set(state.isAfter);
      if (world.value !== state.world) world.set(state.world);
      if (seed.value !== state.seed) seed.set(state.seed);
      compute();
      races.setLogits();
      show(isSmooth);
    }

    show(false);
    return {
      change,
      shown: () => ({
        values: Array.from(model.values), before: Array.from(model.before), after: Array.from(model.after),
        joint: model.joint, given: model.given, counts: model.counts,
      }),
    };
  });
})(globalThis);
