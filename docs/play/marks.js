/* What the pages "The simplex" and "Reverse" share beside formulas: marks on a canvas, and how numbers are written. */
(function (root) {
  "use strict";

  const argumbel = (root.argumbel = root.argumbel || {});
  const { ui } = argumbel;

  function arrow(context, [x, y], [dx, dy], { width = 2, head = 8 } = {}) {
    const length = Math.hypot(dx, dy);
    if (length < 0.5) return;
    const tip = Math.min(head, length);
    const [ux, uy] = [dx / length, dy / length];
    const [ex, ey] = [x + dx, y + dy];
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(ex - ux * tip * 0.8, ey - uy * tip * 0.8);
    context.stroke();
    context.beginPath();
    context.moveTo(ex, ey);
    context.lineTo(ex - ux * tip - uy * tip * 0.45, ey - uy * tip + ux * tip * 0.45);
    context.lineTo(ex - ux * tip + uy * tip * 0.45, ey - uy * tip - ux * tip * 0.45);
    context.fill();
  }

  function colour(context, value) {
    context.strokeStyle = value;
    context.fillStyle = value;
  }

  function dot(context, [x, y], radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  let family = null;

  // Letters with a margin of paper, legible on top of lines.
  function words(context, text, x, y, palette, { align = "center", ink = palette.ink, bold = false, size = 14 } = {}) {
    family = family || getComputedStyle(document.body).fontFamily;
    context.font = `${bold ? "600 " : ""}${size}px ${family}`;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = palette.paper;
    context.strokeText(text, x, y);
    context.fillStyle = ink;
    context.fillText(text, x, y);
  }

  /* The height of a picture that is to fit on the screen together with its heading. */
  const fitting = (width) => Math.round(Math.min(width * 0.9, Math.max(420, root.innerHeight * 0.62)));

  const columns = (host, name) => {
    const picture = ui.html("div", { class: "play-picture" });
    const side = ui.html("div", { class: "play-side" });
    host.append(ui.html("div", { class: `play-columns play-${name}` }, picture, side));
    return [picture, side];
  };

  // ---------------------------------------------------------------- numbers as text

  // The n numbers of a text of the address, or null.
  const numbers = (text, n) => {
    const values = text ? text.split(",").map(Number) : [];
    return values.length === n && values.every(Number.isFinite) ? values : null;
  };

  // The seed in a text of the address, or null.
  function seedIn(text) {
    if (text === null || !/^-?\d{1,19}$/.test(text)) return null;
    const big = BigInt.asIntN(64, BigInt(text));
    return Number.isSafeInteger(Number(big)) ? Number(big) : big;
  }

  const fixed = (v, digits = 2) => v.map((x) => x.toFixed(digits).replace(/^-(0\.?0*)$/, "$1")).join(", ");

  const rounded = (v, digits) => `[${v.map((x) => String(pythonRound(x, digits))).join(", ")}]`;

  const pythonFloat = (x) => ui.pythonFloats([x]).slice(1, -1);

  // round(x, digits), as Python writes it.
  function pythonRound(x, digits) {
    const value = Number(x.toFixed(digits));
    const text = Object.is(value, -0) ? "-0" : String(value);
    return Number.isInteger(value) ? `${text}.0` : text;
  }

  argumbel.marks = {
    arrow, colour, dot, words, fitting, columns, numbers, seedIn, fixed, rounded, pythonFloat, pythonRound,
  };
})(globalThis);
