// The report of `evaluate`: each section of the page answers a question.

const { metrics, recital } = found;
const blindBits = Math.log2(found.vocabSize); // what a guess costs that knows nothing
const numTokens = sum(found.kinds.map(([, tokens]) => tokens));
const bits = (number) => number.toFixed(number < 9.95 ? 2 : 1);

// The numbers in the prose, by the ids of their places.
Object.entries({
  "bits-per-byte": bits(metrics.test_bits_per_byte),
  "error": +metrics.test_bits_per_byte_standard_error.toPrecision(1),
  "xz": bits(metrics.xz_bits_per_byte),
  "bigram-bits": bits(metrics.bigram_bits_per_byte),
  "perplexity": count(+metrics.test_perplexity.toPrecision(3)),
  "vocab-size": count(found.vocabSize),
  "accuracy": percent(metrics.test_accuracy),
  "num-tokens": count(numTokens),
  "blind-bits": Math.round(blindBits),
  "bin-tokens": count(+(numTokens / found.bins.length).toPrecision(2)),
  "searched": percent(recital.searched),
}).forEach(([id, number]) => byId(id).append(number));

function drawExcerpts() {
  const tokens = found.excerpts.flatMap(drawExcerpt);
  const buttons = [...byId("views").children];
  const show = (view) => {
    for (const button of buttons) button.setAttribute("aria-pressed", button.id === view);
    for (const [span, [, , model, bigram]] of tokens) {
      const strength = { model, bigram, gain: 2 * (bigram - model) }[view] / blindBits;
      const hue = view === "gain" && strength > 0 ? "guess" : "odd";
      span.style.backgroundColor = tint(hue, Math.abs(strength));
    }
  };
  for (const button of buttons) button.onclick = () => show(button.id);
  show("model");
}

// Draws an excerpt; returns its elements of tokens, each with its token.
function drawExcerpt({ title, text: [name, length, bitsPerByte], first, tokens }, number) {
  const detail = el("p", { className: "detail", role: "status" });
  const spans = tokens.map(([shown], n) => el("span", { onclick: () => choose(n) }, shown));
  let chosen = 0;
  const choose = (place) => {
    if (!spans[place]) return;
    spans[chosen].className = "";
    spans[place].className = "here";
    chosen = place;
    const [, label, model, bigram, guess, probability] = tokens[place];
    detail.replaceChildren(chip(label), ` ${bits(model)} bits, for the bigram ${bits(bigram)}; `,
      "first guess: ", chip(guess), ` (${percent(probability)})`);
  };
  const onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(chosen + step);
  };
  byId("excerpts").append(
    el("h3", {}, `${title}: `, el("bdi", {}, name), el("span", { className: "note" },
      ` ${bits(bitsPerByte)} bits per byte; from token ${count(first)} of ${count(length)}`)),
    el("div", { className: "text excerpt", id: `excerpt-${number}`, dir: "auto", tabIndex: 0,
      role: "group", "aria-label": `Excerpt: ${title}`, onkeydown }, ...spans), detail);
  choose(0);
  return spans.map((span, place) => [span, tokens[place]]);
}

// A line with dots beside a dashed one, both of [x, y]; axes from the first to the last tick.
function drawChart(id, { title, line, dashed, labelX, labelY, ticksX, ticksY, ...settings }) {
  const { width = 420, height = 300, scale = (x) => x, caption } = settings;
  const [left, right, top, bottom] = [54, 14, 10, 44];
  const between = (value, ticks) => (value - ticks[0]) / (ticks.at(-1) - ticks[0]);
  const inner = width - left - right;
  const toX = (x) => left + between(scale(x), ticksX.map(scale)) * inner;
  const toY = (y) => height - bottom - between(y, ticksY) * (height - top - bottom);
  const text = (x, y, anchor, label, turn = 0) => svg("text",
    { transform: `translate(${x} ${y}) rotate(${turn})`, "text-anchor": anchor }, `${label}`);
  const [dots, others] = [line, dashed].map((each) => each.map(([x, y]) => [toX(x), toY(y)]));
  const polyline = (kind, points) => svg("polyline", { class: kind, points: points.join(" ") });
  byId(id).append(
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": title },
      ...ticksY.map(toY).map((y) => svg("path", { class: "grid", d: `M${left} ${y}h${inner}` })),
      ...ticksY.map((y) => text(left - 8, toY(y) + 4, "end", y)),
      ...ticksX.map((x) => text(toX(x), height - bottom + 18, "middle", x)),
      text(left + inner / 2, height - 6, "middle", labelX),
      text(14, (top + height - bottom) / 2, "middle", labelY, -90),
      polyline("dashed", others), polyline("line", dots),
      ...dots.map(([cx, cy]) => svg("circle", { class: "dot", r: 4, cx, cy }))),
    el("figcaption", {}, ...caption));
}

function drawContext() {
  const rows = found.contexts, [, first, bigram] = rows[0], [longest, last] = rows.at(-1);
  drawChart("context", {
    title: "Surprise by the length of the context",
    line: rows, dashed: [[1, bigram], [longest, bigram]],
    scale: Math.log2, ticksX: rows.map(([context]) => context),
    ticksY: Array.from({ length: Math.ceil(Math.max(first, last, bigram)) + 1 }, (_, y) => y),
    labelX: "at most so many tokens of context (at least half as many)",
    labelY: "bits per token",
    caption: [`With one token of context it needs ${bits(first)} bits for the next, with at most `
      + `${longest} it needs ${bits(last)}. Dashed: the bigram, which needs ${bits(bigram)}.`],
  });
}

function drawCalibration() {
  const ticks = [0, 0.25, 0.5, 0.75, 1], error = 100 * metrics.test_calibration_error;
  drawChart("calibration", {
    title: "Calibration", height: 400,
    line: found.bins, dashed: [[0, 0], [1, 1]], ticksX: ticks, ticksY: ticks,
    labelX: "how probable it found its first guess", labelY: "how often that was right",
    caption: [`Dots and dashed line are ${error.toFixed(1)} percentage points apart, on average `
      + "over all tokens (", el("i", {}, "expected calibration error"), ")."],
  });
}

function drawHard() {
  drawBars("kinds of token: bits per token", "share", found.kinds, (n) => percent(n / numTokens));
  for (const name of ["groups", "documents"]) {
    const { number, rows } = found[name];
    const half = rows.length / 2;
    const which = number > rows.length
      ? `the ${half} hardest and the ${half} easiest of ${count(number)} ${name}` : name;
    drawBars(`${which}: bits per byte`, "tokens", rows, count);
  }
}

// A table with a bar in each row; `shown` is what the last column says of the tokens.
function drawBars(title, head, rows, shown) {
  const largest = Math.max(...rows.flatMap(([, , own, bigram]) => [own, bigram]));
  const share = (number) => `${(100 * number) / largest}%`;
  const cells = rows.map(([name, tokens, own, bigram]) => [
    el("bdi", { className: "name" }, name), bits(own), bits(bigram),
    el("div", { className: "track" },
      el("span", { className: "bar", style: { width: share(own) } }),
      el("span", { className: "mark", style: { left: share(bigram) } })), shown(tokens)]);
  byId("hard").append(el("div", {}, el("h3", {}, title),
    el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": title },
      table(["", "model", "bigram", "", head], cells, [1, 2, 4]))));
}

function drawRecital() {
  const rows = [];
  for (const [name, label] of [["train", "after training text"], ["test", "after test text"],
    ["human", "in the test text itself"]]) {
    if (!recital[name]) continue;
    const { passages, reproduced, error, longest, example: [prompt, before, span, after] } =
      recital[name];
    const mean = reproduced.toFixed(1) + (error === null ? "" : ` ± ${error.toFixed(1)}`);
    rows.push([label, passages, name === "human" ? "" : mean, longest]);
    byId("spans").append(el("h3", {}, `The longest span ${label}`),
      el("div", { className: "text", dir: "auto" },
        el("span", { className: "note" }, prompt), before, el("mark", {}, span), after));
  }
  const heads = ["", "passages", "tokens as written", "longest span in training"];
  byId("recital").append(rows[0] ? table(heads, rows, [1, 2, 3]) : "No passage is long enough.");
}

for (const part of [drawExcerpts, drawContext, drawCalibration, drawHard, drawRecital]) part();
