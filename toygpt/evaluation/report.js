
const bits = (number) => number.toFixed(number < 9.95 ? 2 : 1);
const { metrics, recital } = found;

// Bars with a thin mark for the bigram: rows are name, number, mark and what stands behind.
function bars(heads, rows, digits = 2) {
  const largest = Math.max(...rows.flatMap(([, number, mark]) => [number, mark ?? 0]), 1e-9);
  const width = (number) => `${(100 * number) / largest}%`;
  return table(["", heads[0], heads[1], "", ...heads.slice(2)], rows.map(([name, number, mark, ...rest]) => [
    el("bdi", { className: "name" }, name), number.toFixed(digits), mark === undefined ? "" : mark.toFixed(digits),
    el("div", { className: "track" }, el("span", { className: "bar", style: { width: width(number) } }),
      ...(mark === undefined ? [] : [el("span", { className: "mark", style: { left: width(mark) } })])), ...rest]), [1, 2, 4]);
}

function drawLead() {
  byId("lead").append(`It needs ${metrics.test_bits_per_byte.toFixed(2)} bits for a byte of text (`, el("i", {}, "bits per byte"),
    `): less is better. Guessing the next token is as hard for it as a choice among ${count(Math.round(metrics.test_perplexity))} equally likely ones (`,
    el("i", {}, "perplexity"), `); a blind guess is one among ${count(Math.round(2 ** found.even))}. ${percent(metrics.test_accuracy)} of all `
    + `${count(found.tokens)} tokens were its first guess (`, el("i", {}, "accuracy"), ").");
  byId("beside").append(bars(["bits per byte", ""], [["this model", metrics.test_bits_per_byte],
    ["xz, a compressor", metrics.xz_bits_per_byte], ["a bigram, which knows one token back", metrics.bigram_bits_per_byte]]));
}

// Word by word.
const VIEWS = { model: "surprise of the model", bigram: "surprise of the bigram", gain: "model against bigram" };

function colour(view, [, , model, bigram]) {
  return tint(view === "gain" && bigram > model ? "guess" : "odd", Math.abs({ model, bigram, gain: bigram - model }[view]) / found.even);
}

function drawExcerpts() {
  const tokens = found.excerpts.flatMap(drawExcerpt);
  const show = (view) => {
    for (const button of byId("views").children) button.setAttribute("aria-pressed", button.id === `view-${view}`);
    const bold = Math.round(0.8 * found.even);
    const swatch = (hue, label) => el("span", { className: "key" }, el("i", { style: { background: tint(hue, bold / found.even) } }), label);
    draw("key", ...(view === "gain" ? [swatch("guess", "the model knew more, mostly from the rest of the text"), swatch("odd", "the bigram knew more")]
      : [swatch("odd", `${bold} bits; a blind guess costs ${Math.round(found.even)}`)]));
    tokens.forEach(([span, token]) => { span.style.backgroundColor = colour(view, token); });
  };
  byId("views").append(...Object.entries(VIEWS).map(([view, label]) =>
    el("button", { id: `view-${view}`, className: "button", type: "button", onclick: () => show(view) }, label)));
  show("model");
}

// Draws an excerpt; returns its elements of tokens, each with its token.
function drawExcerpt({ title, name, bitsPerByte, first, of, tokens }, number) {
  const detail = el("p", { className: "detail", role: "status" });
  const spans = tokens.map(([text], place) => el("span", { onclick: () => choose(place) }, text));
  let chosen = 0;
  const choose = (place) => {
    spans[chosen].className = "";
    chosen = Math.max(0, Math.min(tokens.length - 1, place));
    spans[chosen].className = "here";
    const [, label, own, bigram, guess, probability] = tokens[chosen];
    detail.replaceChildren(chip(label), ` ${bits(own)} bits for the model, ${bits(bigram)} for the bigram; its first guess was `,
      chip(guess), ` (${percent(probability)})`);
  };
  byId("excerpts").append(
    el("h3", {}, found.excerpts.length > 1 ? `${title}: ` : "", el("bdi", {}, name), el("span", { className: "note" },
      ` ${bitsPerByte.toFixed(2)} bits per byte; from token ${count(first)} of ${count(of)}`)),
    el("div", { className: "text excerpt", dir: "auto", tabIndex: 0, id: `excerpt-${number}`, role: "group", "aria-label": `Excerpt: ${title}`,
      onkeydown: (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (by) { event.preventDefault(); choose(chosen + by); }
      } }, ...spans), detail);
  choose(0);
  return spans.map((span, place) => [span, tokens[place]]);
}

function drawContext() {
  const all = found.contexts.flatMap(([, own, bigram]) => [own, bigram]);
  const [low, high] = [Math.floor(Math.min(...all)), Math.ceil(Math.max(...all) + 1e-9)];
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => low + i).filter((y) => (y - low) % Math.ceil((high - low) / 8) === 0 || y === high);
  const [one, last, before] = [found.contexts[0], found.contexts.at(-1), found.contexts.at(-2)];
  byId("context").append(chart({ title: "Surprise by the length of the context", scale: Math.log2, ticksX: found.contexts.map(([x]) => x),
    ticksY: ticks, labelX: "at most so many tokens of context (at least half as many)", labelY: "bits per token",
    marks: (toX, toY) => [polyline("dashed", found.contexts.map(([x, , y]) => [toX(x), toY(y)])),
      svg("text", { x: toX(last[0]), y: toY(last[2]) - 7, "text-anchor": "end" }, "bigram"),
      polyline("line", found.contexts.map(([x, y]) => [toX(x), toY(y)])),
      ...found.contexts.map(([x, y]) => svg("circle", { class: "dot", r: 4, cx: toX(x), cy: toY(y) }, svg("title", {}, `at most ${x} tokens of context: ${bits(y)} bits`)))] }),
    el("figcaption", {}, `With one token of context it needs ${bits(one[1])} bits for the next, with at most ${last[0]} it needs ${bits(last[1])}. `
      + `The last step, from ${before[0]} to ${last[0]} tokens, brought ${bits(Math.max(0, before[1] - last[1]))} bits. More than ${last[0]} it cannot see.`));
}

function drawCalibration() {
  const lean = sum(found.bins.map(([p, share, n]) => (p - share) * n)) / found.tokens;
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  byId("calibration").append(chart({ title: "Calibration", width: 420, height: 400, ticksX: ticks, ticksY: ticks,
    labelX: "how probable it found its first guess", labelY: "how often that was right",
    marks: (toX, toY) => [polyline("dashed", [[toX(0), toY(0)], [toX(1), toY(1)]]), polyline("line", found.bins.map(([p, share]) => [toX(p), toY(share)])),
      ...found.bins.map(([p, share, n]) => svg("circle", { class: "dot", r: 4, cx: toX(p), cy: toY(share) },
        svg("title", {}, `${percent(p)} probable, ${percent(share)} right, ${count(n)} tokens`)))] }),
    el("figcaption", {}, `The dots stand for about equally many tokens. Dot and dashed line are on average `
      + `${(100 * metrics.test_calibration_error).toFixed(1)} percentage points apart (`, el("i", {}, "expected calibration error"),
      `); over all tokens the model is ${Math.abs(lean) < 0.002 ? "neither too sure nor too modest" : `${(100 * Math.abs(lean)).toFixed(1)} points too ${lean > 0 ? "sure" : "modest"}`}.`));
}

function drawTexts() {
  const lists = found.groups.number > 1 && found.groups.number < found.documents.number ? ["groups", "documents"] : ["documents"];
  byId("about-texts").textContent = found.documents.number > 1
    ? "Bits per byte, so that short and long tokens count alike. The thin line marks the bigram. Short texts are left out."
    : "The test split is one document, or the end of one.";
  byId("texts").append(...lists.flatMap((name) => ["hardest", "easiest"].filter((end) => found[name][end].length).map((end) =>
    el("div", {}, el("h3", {}, found[name].number > 1 ? `${end} ${name}` : "the document"),
      el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": `${end} ${name}` },
        bars(["model", "bigram", "tokens"], found[name][end].map(([title, tokens, own, bigram]) => [title, own, bigram, count(tokens)])))))));
}

function drawRecital() {
  const who = Object.entries({ train: "after training text", test: "after test text", human: "in the test text itself" }).filter(([name]) => recital[name]);
  const rows = who.map(([name, label]) => {
    const { prompts, reproduced, most, span, longest } = recital[name];
    return [label, count(prompts), ...(name === "human" ? ["", ""] : [reproduced.toFixed(1), most]), span.toFixed(1), longest];
  });
  if (!rows.length) { byId("recital").append("No passage is long enough."); return; }
  byId("recital").append(table(["", "passages", "tokens as written", "at most", "longest span also in training", "the longest of all"], rows, [1, 2, 3, 4, 5]));
  byId("spans").append(...who.flatMap(([name, label]) => {
    const [prompt, before, span, after] = recital[name].example;
    return [el("h3", {}, `The longest span ${label}: ${recital[name].longest} tokens`),
      el("div", { className: "text", dir: "auto" }, el("span", { className: "quiet" }, prompt), before, el("mark", { className: "found" }, span), after)];
  }));
  byId("searched").textContent = "Grey: the passage that was given. Marked: what is in the training text, word for word. "
    + (recital.searched < 1 ? `Only the first ${percent(recital.searched)} of the training text were searched. ` : "")
    + "This is a spot check. What it finds, the model can repeat; what it does not find, it may repeat all the same.";
}

for (const part of [drawLead, drawExcerpts, drawContext, drawCalibration, drawTexts, drawRecital]) part();
byId("kinds").append(bars(["model", "bigram", "of all tokens"], found.kinds.map(([kind, own, bigram, share]) => [kind, own, bigram, percent(share)])));
