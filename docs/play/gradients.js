/* Eight estimators of one gradient, side by side. */
(function (root) {
  "use strict";

  const { argumbel } = root;
  const { laws, ui } = argumbel;
  const { arrow, colour, dot, words, fixed, pythonFloat } = argumbel.marks;
  const {
    CLASSES, NUM_DRAWS, state, follow, noise, further, loss, negative, fitted, contours, frame, probs, logits,
    probsHandle, targetHandle, tauSlider, seedField,
  } = argumbel.triangle;

  const NAMES = [
    "reinforce", "reinforce_loo", "rebar", "gumbel_softmax", "gumbel_straight_through", "gumbel_rao",
    "softmax_straight_through", "reinmax",
  ];
  const REACH = 0.8; // what a panel shows of the plane of gradients, from its middle, in sides of a triangle

  // Draws with the same key have the same estimate: the classes alone decide it.
  const byClass = (won) => won;
  const keys = {
    reinforce: byClass,
    softmax_straight_through: byClass,
    reinmax: byClass,
    reinforce_loo: (won, second) => 3 * won + laws.winner(logits(), second, 0),
  };

  argumbel.play("estimators", (host) => {
    const row = ui.controls(host);
    tauSlider(row);
    seedField(row);
    const grid = ui.html("div", { class: "play-grid" });
    host.append(grid);

    let t = null;
    let exact = null;
    let handles = [];
    const problemCell = ui.html("div", { class: "play-cell" });
    grid.append(problemCell);
    const problem = ui.canvas(problemCell, {
      height: (width) => Math.round(width * 0.86),
      resized: (self) => {
        t = fitted(self.width, self.height, { top: 26, bottom: 24, sides: 20 });
        for (const handle of handles) handle.place();
      },
      draw(context, width, height, palette) {
        contours(context, t, palette);
        frame(context, t, palette);
        t.corners.forEach(([x, y], k) => {
          words(context, CLASSES[k], x + [-11, 11, 0][k], y + (k === 2 ? -13 : 9), palette, {
            ink: palette.series[k], bold: true, size: 13,
          });
        });
        colour(context, palette.ink);
        const [x, y] = t.point(probs());
        arrow(context, [x, y], t.vector(negative(exact), 1), { width: 3, head: 10 });
        words(context, "p", x - 15, y + 2, palette, { ink: palette.soft });
        const [tx, ty] = t.point(state.target);
        words(context, "target", tx + 14, ty, palette, { align: "left", ink: palette.soft, size: 13 });
      },
    });
    problemCell.append(ui.html("p", { class: "play-name", text: "The problem" }));
    problemCell.append(ui.html("p", { class: "play-note", text: "Drag the target, or the probabilities." }));
    handles = [targetHandle(problem, () => t), probsHandle(problem, () => t)];

    const panels = NAMES.map((name) => {
      const cell = ui.html("div", { class: "play-cell" });
      grid.append(cell);
      const key = keys[name] || ((won, second, i) => i);
      const panel = { name, key, points: new Float64Array(2 * NUM_DRAWS), gradients: new Float64Array(3 * NUM_DRAWS) };
      panel.figure = ui.canvas(cell, {
        height: (width) => Math.round(width * 0.8),
        draw: (context, width, height, palette) => drawPanel(panel, context, width, height, palette),
      });
      cell.append(ui.html("p", { class: "play-name" }, ui.html("code", { text: name })));
      panel.note = ui.html("p", { class: "play-note" });
      cell.append(panel.note);
      return panel;
    });
    const box = ui.python(host);

    function drawPanel(panel, context, width, height, palette) {
      const middle = [width / 2, height * 0.54];
      const unit = Math.min(width, height) / 2 / REACH;
      const place = ([a, b]) => [middle[0] + a * unit, middle[1] - b * unit];
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      // The three directions in which a logit rises.
      for (let k = 0; k < 3; k++) {
        const direction = laws.toPlane(laws.oneHot(k, 3).map((v) => v - 1 / 3));
        const long = Math.hypot(...direction);
        const [ux, uy] = direction.map((v) => v / long);
        context.strokeStyle = palette.line;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(...middle);
        context.lineTo(...place([ux * 0.86 * REACH, uy * 0.86 * REACH]));
        context.stroke();
        words(context, CLASSES[k], ...place([ux * 0.96 * REACH, uy * 0.96 * REACH]), palette, {
          ink: palette.series[k], bold: true, size: 13,
        });
      }
      // Equal estimates are one dot, whose area is their number.
      context.globalAlpha = 0.5;
      for (const { at, count, won } of panel.dots) {
        context.fillStyle = palette.series[won];
        dot(context, place(at), Math.max(1.4, 0.9 * Math.sqrt(count)));
      }
      context.globalAlpha = 1;
      const { mean, axes, angle } = panel.law;
      context.lineWidth = 1.5;
      context.strokeStyle = palette.series[3];
      context.beginPath();
      context.ellipse(...place(mean), axes[0] * unit, axes[1] * unit, -angle, 0, 2 * Math.PI);
      context.stroke();
      const [ea, eb] = laws.toPlane(negative(exact));
      colour(context, palette.ink);
      arrow(context, middle, [ea * unit, -eb * unit], { width: 4, head: 11 });
      colour(context, palette.series[3]);
      arrow(context, middle, [mean[0] * unit, -mean[1] * unit], { width: 2, head: 9 });
      context.restore();
    }

    function estimate(panel) {
      const x = logits();
      const g = noise();
      const more = further()[panel.name];
      const perRow = more ? more.length / NUM_DRAWS : 0;
      const draw = { tau: state.tau };
      const dots = new Map();
      const total = [0, 0, 0];
      for (let i = 0; i < NUM_DRAWS; i++) {
        draw.noise = laws.rowOf(g, 3 * i, 3);
        draw.second = laws.rowOf(g, 3 * (NUM_DRAWS + i), 3);
        if (more) draw.further = more.subarray(i * perRow, (i + 1) * perRow);
        const gradient = laws.estimators[panel.name](loss, x, draw);
        panel.gradients.set(gradient, 3 * i);
        for (let k = 0; k < 3; k++) total[k] += gradient[k] / NUM_DRAWS;
        const at = laws.toPlane(negative(gradient));
        panel.points.set(at, 2 * i);
        const won = laws.winner(x, g, 3 * i);
        const key = panel.key(won, draw.second, i);
        const known = dots.get(key);
        if (known) known.count++;
        else dots.set(key, { at, count: 1, won });
      }
      panel.dots = Array.from(dots.values());
      panel.law = laws.ellipse(panel.points);
      // The plane has half the squared lengths of the logits.
      panel.spread = panel.law.spread * Math.SQRT2;
      panel.off = Math.hypot(...total.map((v, k) => v - exact[k]));
    }

    function update() {
      exact = laws.exactGradient(loss, logits());
      for (const panel of panels) {
        estimate(panel);
        panel.figure.redraw();
        const chance = (panel.spread / Math.sqrt(NUM_DRAWS)).toFixed(2);
        panel.note.textContent = `spread ${panel.spread.toFixed(2)}, mean off by ${panel.off.toFixed(2)} ± ${chance}`;
        panel.figure.describe(
          `${panel.name}: ${NUM_DRAWS} estimates of the gradient, ${panel.note.textContent}; the exact gradient ` +
            `has the length ${Math.hypot(...exact).toFixed(2)}.`
        );
      }
      for (const handle of handles) handle.place();
      problem.redraw();
      problem.describe(
        `A triangle with contours of a loss around the target (${fixed(state.target)}), the probabilities ` +
          `(${fixed(probs())}), and the exact gradient (${fixed(exact)}).`
      );
      box.set(
        [
          "import torch",
          "import argumbel as ag",
          "",
          `target = torch.tensor(${ui.pythonFloats(state.target)})`,
          `x = torch.tensor(${ui.pythonFloats(state.logits)}).expand(${NUM_DRAWS}, 3).clone().requires_grad_()`,
          "",
          "def f(z):",
          "    return ((z - target) ** 2).sum(-1)",
          "",
          "def gradients(name, **own):",
          "    estimate = ag.estimators.ESTIMATORS[name](f, x, **own)",
          "    return torch.autograd.grad(estimate.sum(), x)[0]",
          "",
          'exact = gradients("exact")[0]',
          `noise = ag.KeyedNoise(seed=${state.seed})`,
          "for name in (",
          ...NAMES.map((name) => `    "${name}",`),
          "):",
          `    own = {} if name.startswith("reinforce") else {"tau": ${pythonFloat(state.tau)}}`,
          "    g = gradients(name, noise=noise, **own)",
          "    off = (g.mean(0) - exact).norm()",
          "    spread = (g - g.mean(0)).square().sum(-1).mean().sqrt()",
          `    chance = spread / ${NUM_DRAWS}**0.5`,
          '    print(f"{name:24} spread {spread:.2f}, mean off by {off:.2f} ± {chance:.2f}")',
        ].join("\n"),
        panels.map((panel) => `${panel.name.padEnd(24)} ${panel.note.textContent}`).join("\n")
      );
    }

    const catchUp = follow(host, update);
    return {
      shown() {
        catchUp();
        const numbers = ({ name, gradients, spread, off }) => ({ name, gradients: Array.from(gradients), spread, off });
        return { exact, panels: panels.map(numbers) };
      },
    };
  });
})(globalThis);
