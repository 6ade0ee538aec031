/* The two pictures of the page "Reverse": the races of many worlds, and the flow from the winner before to the winner
 * after. A model holds
 *   x, other          logits before and after
 *   known             the winner that is known, or null
 *   values            of all worlds, one after another, under the logits before
 *   before, after     the winners of all worlds
 *   p, q, joint       exact probabilities: before, after, and of both together
 *   world             the one that is followed
 *   isAfter           whether the races are shown under the logits after */
(function (root) {
  "use strict";

  const { argumbel } = root;
  const { laws, ui } = argumbel;
  const { colour, dot, words } = argumbel.marks;

  // A number of (0, 1) for each world, evenly spread: where it lies across a column or a band, without chance.
  const spread = (world) => ((world + 1) * 0.6180339887498949) % 1;

  // ---------------------------------------------------------------- the races

  const LOWEST = -4;
  const HIGHEST = 6.2;
  const WIDEST = 0.5; // the density that is as wide as a column

  /* options: classes, range of logits, onlogit(isAfter, item, value), onworld(world), onwinner(item). */
  function races(parent, model, options) {
    const n = options.classes.length;
    let area = { left: 8, top: 10, bottom: 34, width: 1, height: 1 };
    let handles = [];
    let shown = null; // [x, y] of each dot, in columns and in values
    let wanted = null;
    let from = null;
    let progress = 1;

    const toY = (value) => area.top + (area.height * (HIGHEST - value)) / (HIGHEST - LOWEST);
    const toValue = (y) => HIGHEST - ((y - area.top) * (HIGHEST - LOWEST)) / area.height;
    const middle = (item) => area.left + ((item + 0.5) * area.width) / n;
    const shift = (item) => (model.isAfter ? model.other[item] - model.x[item] : 0);
    const density = (item, value) => laws.valueDensity(model.x, item, model.known, value - shift(item));
    const half = () => (0.29 * area.width) / n;

    const figure = ui.canvas(parent, {
      height: options.height,
      resized(self) {
        area = { left: 24, top: 10, bottom: 36, width: self.width - 28, height: self.height - 46 };
        for (const handle of handles) handle.place();
      },
      draw(context, width, height, palette) {
        context.save();
        context.beginPath();
        context.rect(0, 0, width, area.top + area.height);
        context.clip();
        ticks(context, width, palette);
        violins(context, palette);
        dots(context, palette);
        path(context, palette);
        context.restore();
        for (let item = 0; item < n; item++) {
          const won = model.known === item ? " won" : "";
          words(context, options.classes[item] + won, middle(item), height - 16, palette, {
            ink: palette.series[item], bold: true, size: 15,
          });
          moved(context, palette, item);
        }
      },
    });

    function ticks(context, width, palette) {
      for (let value = Math.floor(LOWEST / 2) * 2 + 2; value < HIGHEST; value += 2) {
        const y = Math.round(toY(value)) + 0.5;
        context.strokeStyle = palette.line;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(22, y);
        context.lineTo(width, y);
        context.stroke();
        const text = String(value).replace("-", "\u2212");
        words(context, text, 16, y, palette, { align: "right", ink: palette.faint, size: 12 });
      }
    }

    function violins(context, palette) {
      for (let item = 0; item < n; item++) {
        const x = middle(item);
        context.beginPath();
        for (const side of [-1, 1]) {
          for (let step = 0; step <= 80; step++) {
            const t = side < 0 ? step / 80 : 1 - step / 80;
            const value = LOWEST + t * (HIGHEST - LOWEST);
            context.lineTo(x + (side * half() * density(item, value)) / WIDEST, toY(value));
          }
        }
        context.globalAlpha = 0.1;
        context.fillStyle = palette.ink;
        context.fill();
        context.globalAlpha = 1;
      }
    }

    function dots(context, palette) {
      const now = model.isAfter ? model.after : model.before;
      const radius = area.width > 420 ? 2 : 1.6;
      for (let winner = 0; winner < n; winner++) {
        for (const isTop of [false, true]) {
          context.beginPath();
          for (let world = 0; world < now.length; world++) {
            if (now[world] !== winner) continue;
            for (let item = 0; item < n; item++) {
              if ((item === winner) !== isTop) continue;
              const at = 2 * (world * n + item);
              const px = middle(item) + shown[at] * half();
              const py = toY(shown[at + 1]);
              context.moveTo(px + radius, py);
              context.arc(px, py, radius, 0, 2 * Math.PI);
            }
          }
          context.globalAlpha = isTop ? 0.85 : 0.3;
          context.fillStyle = palette.series[winner];
          context.fill();
        }
      }
      context.globalAlpha = 1;
    }

    function path(context, palette) {
      const now = model.isAfter ? model.after : model.before;
      const winner = now[model.world];
      const points = Array.from({ length: n }, (_, item) => {
        const at = 2 * (model.world * n + item);
        return [middle(item) + shown[at] * half(), toY(shown[at + 1])];
      });
      for (const [ink, width] of [[palette.paper, 5], [palette.series[winner], 1.8]]) {
        context.strokeStyle = ink;
        context.lineWidth = width;
        context.lineJoin = "round";
        context.beginPath();
        for (const point of points) context.lineTo(...point);
        context.stroke();
      }
      points.forEach((point, item) => {
        colour(context, palette.paper);
        dot(context, point, item === winner ? 8 : 5.5);
        colour(context, palette.series[winner]);
        dot(context, point, item === winner ? 6.5 : 4);
      });
    }

    // From the logit before to the logit after.
    function moved(context, palette, item) {
      const [a, b] = [toY(model.x[item]), toY(model.other[item])];
      context.strokeStyle = palette.faint;
      context.lineWidth = 1;
      context.setLineDash([2, 3]);
      context.beginPath();
      context.moveTo(handleX(item, false), a);
      context.lineTo(handleX(item, true), b);
      context.stroke();
      context.setLineDash([]);
    }

    const handleX = (item, isAfter) => middle(item) + ((isAfter ? 0.35 : -0.35) * area.width) / n;

    handles = [false, true].flatMap((isAfter) =>
      options.classes.map((name, item) => {
        const handle = ui.handle(figure.box, {
          label: `Logit of ${name} ${isAfter ? "after" : "before"}`,
          min: options.least, max: options.most, step: 0.05, bigStep: 0.5,
          value: (isAfter ? model.other : model.x)[item],
          place: (value) => [handleX(item, isAfter), toY(value)],
          from: (x, y) => toValue(y),
          text: (value) => value.toFixed(2),
          oninput: (value) => options.onlogit(isAfter, item, value),
        });
        handle.element.classList.add(isAfter ? "play-after" : "play-before", `play-class-${item + 1}`);
        return handle;
      })
    );

    figure.element.addEventListener("click", (event) => {
      const [x, y] = figure.at(event);
      const item = Math.min(n - 1, Math.max(0, Math.floor(((x - area.left) / area.width) * n)));
      if (y > area.top + area.height) {
        options.onwinner(model.known === item ? null : item);
        return;
      }
      let best = 14 ** 2;
      let world = model.world;
      for (let row = 0; row < model.before.length; row++) {
        const at = 2 * (row * n + item);
        const distance = (middle(item) + shown[at] * half() - x) ** 2 + (toY(shown[at + 1]) - y) ** 2;
        if (distance < best) [best, world] = [distance, row];
      }
      options.onworld(world);
    });

    function goals() {
      const out = new Float64Array(2 * model.values.length);
      for (let i = 0; i < model.values.length; i++) {
        const item = i % n;
        const value = model.values[i] + shift(item);
        // Across the column: within the density, so that dots are equally dense everywhere.
        out[2 * i] = ((2 * spread(Math.floor(i / n)) - 1) * density(item, value)) / WIDEST;
        out[2 * i + 1] = value;
      }
      return out;
    }

    const transition = ui.loop(figure.box, (seconds) => {
      progress = Math.min(1, progress + seconds / 0.9);
      const t = ui.ease(progress);
      for (let i = 0; i < shown.length; i++) shown[i] = from[i] + t * (wanted[i] - from[i]);
      figure.redraw();
      return progress < 1;
    });

    return {
      figure,
      handles,
      /* Dots go to their new places, or, where `isSmooth`, wander there. */
      update(isSmooth) {
        wanted = goals();
        if (isSmooth && shown && !ui.reducedMotion()) {
          from = shown.slice();
          progress = 0;
          transition.start();
        } else if (!transition.running) {
          shown = wanted;
        } else {
          from = shown.slice();
        }
        figure.redraw();
      },
      setLogits() {
        handles.forEach((handle, i) => handle.set((i < n ? model.x : model.other)[i % n]));
      },
    };
  }

  // ---------------------------------------------------------------- the flow

  const GAP = 14; // between the bars of a side

  /* options: classes, height, onworld(world). */
  function flow(parent, model, options) {
    const n = options.classes.length;
    let bands = []; // of before and after: [n][n] of {top, end, width}
    let sides = [];
    let area = { left: 1, right: 2, top: 1, height: 1 };
    let places = new Float64Array(0); // where in its band each world lies, across
    let phase = 0;

    const figure = ui.canvas(parent, {
      height: options.height,
      resized(self) {
        const margin = self.width > 340 ? 82 : 66;
        area = { left: margin, right: self.width - margin, top: 34, height: self.height - 60 };
        layout();
      },
      draw(context, width, height, palette) {
        words(context, "won before", area.left - 10, 14, palette, { align: "center", ink: palette.soft });
        words(context, "wins after", area.right + 10, 14, palette, { align: "center", ink: palette.soft });
        ribbons(context, palette);
        dots(context, palette);
        bars(context, palette);
      },
    });

    function scale() {
      return area.height - (n - 1) * GAP;
    }

    function layout() {
      const tops = [model.p, model.q].map((probs) => {
        let at = area.top;
        return probs.map((prob) => {
          const top = at;
          at += prob * scale() + GAP;
          return top;
        });
      });
      sides = tops;
      const [left, right] = tops.map((side) => side.slice());
      bands = model.joint.map((row) => row.map(() => null));
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
          const width = model.joint[i][j] * scale();
          bands[i][j] = { top: left[i], end: right[j], width };
          left[i] += width;
          right[j] += width;
        }
      }
      const counts = new Map();
      const rank = Array.from(model.before, (i, world) => {
        const key = i * n + model.after[world];
        counts.set(key, (counts.get(key) || 0) + 1);
        return counts.get(key) - 0.5;
      });
      // Neighbours in a band are not neighbours in number: else the worlds of a band would run in a line.
      places = Float64Array.from(rank, (r, world) => {
        const count = counts.get(model.before[world] * n + model.after[world]);
        return (Math.floor(r) * 0.6180339887498949 + 0.5 / count) % 1;
      });
    }

    const isShown = (i) => model.known === null || model.known === i;

    function ribbons(context, palette) {
      const middle = (area.left + area.right) / 2;
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
          const { top, end, width } = bands[i][j];
          if (width < 0.05) continue;
          context.beginPath();
          context.moveTo(area.left, top);
          context.bezierCurveTo(middle, top, middle, end, area.right, end);
          context.lineTo(area.right, end + width);
          context.bezierCurveTo(middle, end + width, middle, top + width, area.left, top + width);
          context.closePath();
          context.globalAlpha = !isShown(i) ? 0.05 : i === j ? 0.16 : 0.36;
          context.fillStyle = palette.series[i];
          context.fill();
        }
      }
      context.globalAlpha = 1;
    }

    function at(world, t) {
      const { top, end, width } = bands[model.before[world]][model.after[world]];
      const s = t * t * (3 - 2 * t); // the height of the curve of a band, as its x grows evenly: near enough
      return [area.left + t * (area.right - area.left), top + s * (end - top) + width * places[world]];
    }

    function dots(context, palette) {
      const radius = area.right - area.left > 240 ? 2.2 : 1.8;
      for (let ink = 0; ink < n; ink++) {
        context.beginPath();
        for (let world = 0; world < model.before.length; world++) {
          const t = (spread(world) + phase) % 1;
          if ((t < 0.5 ? model.before : model.after)[world] !== ink) continue;
          const [x, y] = at(world, t);
          context.moveTo(x + radius, y);
          context.arc(x, y, radius, 0, 2 * Math.PI);
        }
        context.globalAlpha = 0.8;
        context.fillStyle = palette.series[ink];
        context.fill();
      }
      context.globalAlpha = 1;
      const t = (spread(model.world) + phase) % 1;
      colour(context, palette.paper);
      dot(context, at(model.world, t), 8);
      colour(context, palette.series[(t < 0.5 ? model.before : model.after)[model.world]]);
      dot(context, at(model.world, t), 6);
    }

    function bars(context, palette) {
      for (const [side, probs] of [model.p, model.q].entries()) {
        const x = side ? area.right : area.left - 8;
        for (let i = 0; i < n; i++) {
          const top = sides[side][i];
          context.globalAlpha = side || isShown(i) ? 1 : 0.25;
          context.fillStyle = palette.series[i];
          context.fillRect(x, top, 8, probs[i] * scale());
          context.globalAlpha = 1;
          const text = `${options.classes[i]} ${probs[i].toFixed(3)}`;
          words(context, text, side ? x + 16 : x - 8, top + (probs[i] * scale()) / 2, palette, {
            align: side ? "left" : "right", ink: palette.series[i], bold: true,
          });
        }
      }
    }

    const motion = ui.loop(figure.box, (seconds) => {
      phase = (phase + seconds / 6) % 1;
      figure.redraw();
    });

    return {
      figure,
      motion,
      update() {
        layout();
        figure.redraw();
      },
    };
  }

  argumbel.worlds = { races, flow };
})(globalThis);
