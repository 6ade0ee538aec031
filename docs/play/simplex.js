/* Soft choices among three classes, and their density. */
(function (root) {
  "use strict";

  const { argumbel } = root;
  const { laws, ui } = argumbel;
  const { colour, dot, words, fitting, columns, fixed, pythonFloat, rounded, pythonRound } = argumbel.marks;
  const {
    CLASSES, NUM_POINTS, TAU, state, change, follow, noise, shortTau, fitted, outline, frame, probs, logits,
    probsHandle, tauSlider, seedField, drawField,
  } = argumbel.triangle;

  const PIXELS = 120;

  // The density as an image of the triangle's bounding box; the logarithms of y do not change.
  function densityImage() {
    const rows = Math.round(PIXELS * laws.HEIGHT);
    const logY = new Float64Array(3 * PIXELS * rows);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < PIXELS; c++) {
        const y = laws.fromPlane([(c + 0.5) / PIXELS, ((rows - r - 0.5) / rows) * laws.HEIGHT]);
        // Points outside and on the edges, where the density is 0 or infinite, take the nearest inner value.
        const inner = y.map((v) => Math.max(v, 0.5 / PIXELS));
        const sum = inner[0] + inner[1] + inner[2];
        for (let k = 0; k < 3; k++) logY[3 * (r * PIXELS + c) + k] = Math.log(inner[k] / sum);
      }
    }
    const element = ui.html("canvas");
    element.width = PIXELS;
    element.height = rows;
    const context = element.getContext("2d");
    const image = context.createImageData(PIXELS, rows);
    const paint = (x, tau, [red, green, blue]) => {
      const constant = Math.log(2) + 2 * Math.log(tau);
      for (let i = 0; i < PIXELS * rows; i++) {
        const [la, lb, lc] = [logY[3 * i], logY[3 * i + 1], logY[3 * i + 2]];
        const [a, b, c] = [x[0] - tau * la, x[1] - tau * lb, x[2] - tau * lc];
        const top = Math.max(a, b, c);
        const z = top + Math.log(Math.exp(a - top) + Math.exp(b - top) + Math.exp(c - top));
        const density = constant + a + b + c - la - lb - lc - 3 * z;
        image.data[4 * i] = red;
        image.data[4 * i + 1] = green;
        image.data[4 * i + 2] = blue;
        image.data[4 * i + 3] = 90 * Math.min(1, Math.max(0, (density + 1) / 6));
      }
      context.putImageData(image, 0, 0);
    };
    return { element, paint };
  }

  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  argumbel.play("simplex", (host) => {
    const [picture, side] = columns(host, "simplex");
    const y = new Float64Array(3 * NUM_POINTS);
    const density = densityImage();
    let won = null; // the winners
    let shades = true;
    let t = null;
    let painted = "";
    let handle = null;

    const figure = ui.canvas(picture, {
      height: fitting,
      resized: (self) => {
        t = fitted(self.width, self.height, { top: 42, bottom: 46, sides: 26 });
        if (handle) handle.place();
      },
      draw(context, width, height, palette) {
        if (shades) {
          const key = `${state.logits} ${state.tau} ${palette.ink}`;
          if (key !== painted) density.paint(logits(), state.tau, rgb(palette.ink));
          painted = key;
          context.save();
          outline(context, t);
          context.clip();
          context.imageSmoothingQuality = "high";
          context.drawImage(density.element, t.left, t.base - t.side * laws.HEIGHT, t.side, t.side * laws.HEIGHT);
          context.restore();
        }
        frame(context, t, palette);
        const radius = t.side > 400 ? 2.2 : 1.7;
        context.globalAlpha = 0.62;
        for (let k = 0; k < 3; k++) {
          context.fillStyle = palette.series[k];
          context.beginPath();
          for (let row = 0; row < NUM_POINTS; row++) {
            if (won[row] !== k) continue;
            const at = 3 * row;
            const px = t.left + (y[at + 1] + y[at + 2] / 2) * t.side;
            const py = t.base - y[at + 2] * laws.HEIGHT * t.side;
            context.moveTo(px + radius, py);
            context.arc(px, py, radius, 0, 2 * Math.PI);
          }
          context.fill();
        }
        context.globalAlpha = 1;
        path(context, palette);
        const [px, py] = t.point(probs());
        words(context, "p", px - 17, py + 1, palette, { ink: palette.ink });
        corners(context, palette);
      },
    });

    function followed(tau) {
      const values = laws.rowOf(noise(), 3 * state.draw, 3).map((g, i) => (g + logits()[i]) / tau);
      return laws.softmax(values);
    }

    function logFollowed() {
      const values = laws.rowOf(noise(), 3 * state.draw, 3).map((g, i) => (g + logits()[i]) / state.tau);
      const z = laws.logSumExp(values);
      return values.map((v) => v - z);
    }

    function path(context, palette) {
      const ink = palette.series[won[state.draw]];
      context.beginPath();
      for (let step = 0; step <= 60; step++) {
        const [px, py] = t.point(followed(0.02 * 5000 ** (step / 60)));
        if (step) context.lineTo(px, py);
        else context.moveTo(px, py);
      }
      context.lineJoin = "round";
      context.lineWidth = 5;
      context.strokeStyle = palette.paper;
      context.stroke();
      context.lineWidth = 2;
      context.strokeStyle = ink;
      context.stroke();
      const at = t.point(followed(state.tau));
      colour(context, palette.paper);
      dot(context, at, 8);
      colour(context, ink);
      dot(context, at, 6);
    }

    function corners(context, palette) {
      const shares = laws.count(won, 3);
      t.corners.forEach(([x, cy], k) => {
        const [align, dx] = [["left", -14], ["right", 14], ["center", 0]][k];
        const below = k === 2 ? -24 : 18;
        const text = `${CLASSES[k]}  ${(shares[k] / NUM_POINTS).toFixed(3)} of the draws`;
        words(context, text, x + dx, cy + below, palette, {
          align, ink: palette.series[k], bold: true,
        });
      });
    }

    handle = probsHandle(figure, () => t);

    const row = ui.controls(side);
    tauSlider(row);
    let phase = 0;
    const sweep = ui.loop(host, (seconds) => {
      phase += seconds / 4;
      const at = (1 - Math.cos(Math.PI * phase)) / 2;
      change({ tau: Number((TAU.min * (TAU.max / TAU.min) ** at).toPrecision(3)) });
      return sweep.running;
    });
    const play = ui.button(row, {
      label: "Sweep tau", main: true,
      onclick: () => {
        if (sweep.running) sweep.stop();
        else {
          phase = Math.acos(1 - (2 * Math.log(state.tau / TAU.min)) / Math.log(TAU.max / TAU.min)) / Math.PI;
          sweep.start();
        }
        play.textContent = sweep.running ? "Stop" : "Sweep tau";
      },
    });
    if (ui.reducedMotion()) play.hidden = true;
    // A hand on any slider of tau ends the sweep.
    document.addEventListener("input", (event) => event.target.type === "range" && sweep.running && play.click());
    const more = ui.controls(side);
    drawField(more);
    seedField(more);
    ui.toggle(more, {
      label: "Density", value: true,
      oninput: (value) => {
        shades = value;
        figure.redraw();
      },
    });
    const said = ui.live(side);
    const box = ui.python(side);

    figure.element.addEventListener("click", (event) => {
      const [x, py] = figure.at(event);
      let best = 20 ** 2;
      let draw = state.draw;
      for (let i = 0; i < NUM_POINTS; i++) {
        const [qx, qy] = t.point([y[3 * i], y[3 * i + 1], y[3 * i + 2]]);
        const distance = (qx - x) ** 2 + (qy - py) ** 2;
        if (distance < best) [best, draw] = [distance, i];
      }
      change({ draw });
    });

    function update() {
      laws.relaxed(logits(), noise(), state.tau, y);
      won = laws.winners(logits(), noise());
      handle.place();
      figure.redraw();
      tell();
    }

    function tell() {
      const own = followed(state.tau);
      const shares = laws.count(won, 3);
      const winner = CLASSES[won[state.draw]];
      const logDensity = laws.concreteLogDensity(logits(), state.tau, logFollowed());
      said.say(
        `Draw ${state.draw}: ${winner} wins, y = (${fixed(own)}), log density ${logDensity.toFixed(1)}. ` +
          `Exact shares: ${fixed(probs(), 3)}.`
      );
      const spread = state.tau < 0.3 ? "near the corners" : state.tau > 3 ? "near the centre" : "all over the triangle";
      figure.describe(
        `${NUM_POINTS} soft choices in a triangle at tau = ${shortTau(state.tau)}, most of them ${spread}. ` +
          `Of these, a wins ${shares[0]}, b wins ${shares[1]}, c wins ${shares[2]}.`
      );
      box.set(
        [
          "import torch",
          "import argumbel as ag",
          "",
          `logits = torch.tensor(${ui.pythonFloats(state.logits)})`,
          `x = logits.expand(${NUM_POINTS}, 3)`,
          `noise = ag.KeyedNoise(seed=${state.seed})`,
          "winners = ag.gumbel_max(x, noise=noise).indices",
          "print(winners.bincount(minlength=3).tolist())",
          `y = ag.gumbel_softmax(x, tau=${pythonFloat(state.tau)}, noise=noise)`,
          `print([round(v, 3) for v in y[${state.draw}].tolist()])`,
          "",
          "log_y = ag.relax.log_gumbel_softmax(",
          `    x, ${pythonFloat(state.tau)}, noise=noise`,
          ")",
          "law = ag.distributions.ExpRelaxedCategorical(",
          `    torch.tensor(${pythonFloat(state.tau)}), logits=logits`,
          ")",
          "log_density = law.log_prob(log_y) - log_y.sum(-1)",
          `print(round(log_density[${state.draw}].item(), 1))`,
        ].join("\n"),
        [`[${shares.join(", ")}]`, rounded(own, 3), pythonRound(logDensity, 1)].join("\n")
      );
    }

    const catchUp = follow(host, update);
    return {
      change,
      shown() {
        catchUp();
        return { points: Array.from(y), winners: Array.from(won) };
      },
    };
  });
})(globalThis);
