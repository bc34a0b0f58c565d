// The page of `python . explain`: follow one token through the network.

const { tokens, labels, model, guesses, candidates, bits } = found;
const evenBits = Math.log2(model.vocab_size); // of surprise, where all tokens are equally likely
const [head_dim, neurons] = [model.embed_dim / model.num_heads, 4 * model.embed_dim];
const here = { place: found.given - 1, layer: 0, head: 0 }; // what is shown now
const parts = ["the token itself", "its place in the text"];
for (let block = 1; block <= model.num_layers; block++) {
  parts.push(`block ${block}: attention`, `block ${block}: feed-forward`);
}
const layerOf = (part) => Math.floor(part / 2) - 1;
// Of each head and token: its shares of the tokens up to itself.
const shares = found.shares.map((head) => head.map((row) => row.map((share) => share / 1000)));
const headsOf = (layer, values) =>
  values.slice(layer * model.num_heads, (layer + 1) * model.num_heads);

const isWritten = (place) => place >= found.given; // by the model
const label = (place) => labels[tokens[place]];
const guess = (id) => chip(labels[id], tokens[here.place + 1] === id ? "came" : "");
const named = (chip, share) => el("span", { className: "named" }, chip, ` ${percent(share)}`);
const fired = (layer) => count(found.fired[layer][here.place]);
// The model's answer, the most probable token to follow, and its probability.
const answer = () => [guesses.at(-1).ids[here.place][0], guesses.at(-1).values[here.place][0]];

const chipAt = (place) =>
  chip(label(place), place === here.place ? "here" : isWritten(place) ? "written" : "");
const decimal = (number) => number.toFixed(2).replace("-", "−");
const bar = (share, hue = "guess") => el("span",
  { className: "bar", style: { width: `${100 * share}%`, background: `var(--${hue})` } });

// Put new content into an element; what takes the place of what had the focus gets it.
function draw(id, ...children) {
  const stops = () => [...byId(id).querySelectorAll("a, button, [tabindex]")];
  const focused = stops().indexOf(document.activeElement);
  byId(id).replaceChildren(...children);
  if (focused >= 0) stops()[focused]?.focus({ preventScroll: true });
}

function drawJourney() {
  draw("parts", ...parts.map(drawPart));
  const [id, probability] = answer();
  draw("said", "So after ", chipAt(here.place), " the model gives ", guess(id),
    ` a probability of ${percent(probability)}. `);
  if (here.place + 1 < tokens.length) {
    byId("said").append("What came is ", guess(tokens[here.place + 1]), isWritten(here.place + 1)
      ? ": the model chose it." : `, rank ${count(found.ranks[here.place])} of its guesses.`);
  }
}

function drawPart(name, part) {
  const { ids, values, itself, ranks } = guesses[part];
  const [shown, rank] = [values[here.place], ranks[here.place]];
  const repeats = Math.min(itself[here.place], 0.9999); // never quite 1, which rounding may give
  const isLast = part === parts.length - 1;
  const step = part < 2 ? "#vectors-step" : part % 2 ? "#feed-step" : "#attention-step";
  const layer = Math.max(0, layerOf(part));
  return el("li", {},
    el("a", { href: step, className: "part", onclick: () => show({ layer }) }, name),
    el("div", { className: "did" }, ...whatItDid(part)),
    el("div", { className: "guesses" },
      ...ids[here.place].map((id, i) => el("span", {}, named(guess(id), shown[i]), bar(shown[i]))),
      el("span", { className: "did" }, isLast ? "" : `(itself: ${percent(repeats)})`)),
    el("div", { className: "climb" },
      bar(1 - Math.log2(rank) / evenBits, "look"), `answer: rank ${count(rank)}`));
}

function whatItDid(part) {
  if (part === 0) return ["a row of a table: it knows no other token"];
  if (part === 1) return [`token ${here.place + 1} of the text`];
  if (part % 2) return [`${fired(layerOf(part))} of ${count(neurons)} neurons fired`];
  const heads = headsOf(layerOf(part), shares);
  const mean = (place) => sum(heads.map((head) => head[here.place][place])) / heads.length;
  return ["looked most at: ", ...most(mean)];
}

// The three tokens with the largest shares, of those that are seen.
function most(shareOf) {
  const looks = tokens.slice(0, here.place + 1).map((_, place) => [place, shareOf(place)]);
  const largest = looks.sort((a, b) => b[1] - a[1]).slice(0, 3);
  return largest.map(([place, share]) => named(chipAt(place), share));
}

function drawVector() {
  const rows = found.additions.map((places) => places[here.place]);
  const total = rows[0].map((_, i) => sum(rows.map((row) => row[i])));
  draw("vector", table(["", "1st", "2nd", "3rd"], [...rows, total].map((row, part) =>
    [parts[part] ?? el("b", {}, "the sum"), ...row.map(decimal)]), [1, 2, 3]));
}

function drawHeads() {
  draw("blocks", ...Array.from({ length: model.num_layers }, (_, layer) => el("button", {
    className: "button", "aria-pressed": layer === here.layer, onclick: () => show({ layer }),
  }, `Block ${layer + 1}`)));
  const ofBlock = headsOf(here.layer, shares);
  draw("heads", ...ofBlock.map(drawHead));
  draw("matrix-title", `Block ${here.layer + 1}, head ${here.head + 1}: who looks at whom`);
  drawGrid("matrix", [
    ["looks at", (place) => el("span", {}, el("b", {}, label(place)))],
    ...ofBlock[here.head].map((row, looker) => [label(looker), (place) => {
      const hundredths = place > looker ? "\u00a0" : (100 * row[place]).toFixed(0);
      return drawShare(row[place], hundredths, looker === here.place);
    }]),
  ]);
  draw("mix", "For ", chipAt(here.place), ` head ${here.head + 1} mixes mostly the values of: `,
    ...most((place) => ofBlock[here.head][here.place][place]));
}

// Blue for a share of attention, grey for a token that comes later and has none.
function drawShare(share, text, isNow) {
  if (share === undefined) return el("span", { className: "later" }, text);
  const style = { backgroundColor: tint("look", Math.sqrt(share)) };
  return el("span", { className: isNow ? "now" : "", style, title: percent(share) }, text);
}

function drawHead(rows, head) {
  const [habit, share] = headsOf(here.layer, found.habits)[head];
  const about = el("span", {}, el("b", {}, `Head ${head + 1}`),
    habit && ` often looks at ${habit}: ${percent(share)}`);
  if (found.without) {
    const [id, before] = answer();
    const after = headsOf(here.layer, found.without)[head][here.place];
    about.append(el("br"), "Without it ", guess(id), ` ${percent(before)} → ${percent(after)}`);
  }
  const text = tokens.map((_, place) =>
    drawShare(rows[here.place][place], label(place), place === here.place));
  return el("button", {
    className: "head", "aria-pressed": head === here.head, onclick: () => show({ head }),
  }, heat(rows), about, el("span", { className: "text", "aria-hidden": true }, ...text));
}

// The shares of a head as a picture: the bluer the larger; grey is what comes later.
function heat(rows) {
  const squares = Array.from({ length: 11 }, () => ""); // by their strength
  rows.forEach((row, y) => row.forEach((share, x) => {
    squares[Math.round(10 * Math.sqrt(share))] += `M${x} ${y}h1v1h-1z`;
  }));
  const later = rows.map((_, y) => `M${y + 1} ${y}H${rows.length}v1H${y + 1}z`).join("");
  return svg("svg",
    { class: "heat", viewBox: `0 0 ${rows.length} ${rows.length}`, "aria-hidden": true },
    svg("path", { d: later, class: "later" }),
    ...squares.map((d, strength) => svg("path", { d, "fill-opacity": strength / 10 })));
}

// A table with a column for each token: rows are a name, and what it holds for each place.
function drawGrid(id, rows) {
  draw(id, el("table", {}, ...rows.map(([name, cellAt]) => el("tr", {},
    el("th", { scope: "row" }, name), ...tokens.map((_, place) => el("td", {}, cellAt(place)))))));
}

function drawFeedForward() {
  const part = 2 * here.layer + 3;
  const [before, after] = [part - 1, part].map((part) => count(guesses[part].ranks[here.place]));
  draw("fired", "For ", chipAt(here.place), `, ${fired(here.layer)} neurons of block `,
    `${here.layer + 1} fired. Before, the final answer `, guess(answer()[0]),
    ` had rank ${before} among the guesses; with what they added, rank ${after}.`);
}

function drawLens() {
  const cell = (place, text, settings) => el("span", {
    className: place === here.place ? "now" : "", onclick: () => follow(place), ...settings,
  }, text);
  const edge = (shift) => (place) => cell(place, el("b", {}, label(place + shift) ?? "?"));
  const row = (part, number) => [part, (place) => {
    const [ids, values] = [guesses[number].ids[place], guesses[number].values[place]];
    const text = ids[0] === tokens[place + 1] ? el("u", {}, labels[ids[0]]) : labels[ids[0]];
    return cell(place, text, {
      style: { backgroundColor: tint("guess", values[0] ** 0.7) },
      title: ids.map((id, rank) => `${labels[id]}  ${percent(values[rank])}`).join("\n"),
    });
  }];
  drawGrid("lens", [["after", edge(0)], ...parts.map(row), ["came", edge(1)]]);
  const { firstChild, clientWidth } = byId("lens");
  byId("lens").scrollLeft = firstChild.rows[0].cells[here.place].offsetLeft - clientWidth / 2;
}

// The probabilities of the candidates, then of all others together; as sampling.py has them.
function probabilities(temperature, topK, topP) {
  const logits = candidates.values[here.place];
  // Tokens of about one logit: the power of each, and how many they are.
  const groups = [...logits.map((logit) => [logit, 1]), ...found.others[here.place]]
    .map(([logit, number]) => [Math.exp((logit - logits[0]) / temperature), number]);
  const allowed = topK > logits.length ? groups : groups.slice(0, topK);
  const total = sum(allowed.map(([power, number]) => power * number));
  let before = 0; // what more likely tokens have together
  const kept = allowed.map(([power, number]) => {
    const room = Math.max(0, Math.ceil((topP * total - before) / power - 1e-9));
    before += power * number;
    return power * (topP < 1 ? Math.min(number, room) : number);
  });
  const left = sum(kept);
  const others = sum(kept.slice(logits.length));
  return [...logits.map((_, rank) => (kept[rank] ?? 0) / left), others / left];
}

const sliders = ["temperature", "top-k", "top-p"].map(byId);

function drawNext() {
  for (const slider of sliders) {
    const isAll = slider.id !== "temperature" && slider.value === slider.max;
    slider.nextElementSibling.value = isAll ? "all" : slider.value;
  }
  const [temperature, ...limits] = sliders.map((slider) => Number(slider.value));
  const logits = candidates.values[here.place];
  const ids = candidates.ids[here.place].slice(0, 10);
  const all = probabilities(temperature, ...limits);
  const weight = (p) => p < all[0] / 1000 ? "< 0.001" : `${+(p / all[0]).toPrecision(3)}`;
  const others = sum(all.slice(ids.length));
  const row = (name, z, p) => [name, z, ...p ? [weight(p), percent(p)] : ["–", "–"], bar(p)];
  draw("next", table(["next token", "z", "w", "p", ""], [
    ...ids.map((id, i) => row(guess(id), decimal(logits[i]), all[i])),
    row(`${count(model.vocab_size - ids.length)} others`, "", others),
    ["the sum", "", weight(1), percent(1), ""],
  ], [1, 2, 3]));
  const [half, two] = [0.5, 2].map((other) => probabilities(other, Infinity, 1)[0]);
  const kept = probabilities(1, Infinity, 0.5).filter((p) => p).length;
  draw("warmth", "With all tokens kept, ", guess(answer()[0]), ` has ${percent(half)} at T = 0.5, `,
    `${percent(answer()[1])} at T = 1 and ${percent(two)} at T = 2. At T = 1, top-p = 0.5 keeps `,
    kept > logits.length ? `more than ${logits.length}` : `${kept}`,
    ` of the ${count(model.vocab_size)} tokens.`);
}

function surpriseAt(place) {
  if (place === 0) return "is the first token: nothing was expected";
  const [size, before] = [bits[place - 1], label(place - 1)];
  return `after ${before} had a probability of ${percent(2 ** -size)}: ${size.toFixed(1)} bits`;
}

function drawSurprise() {
  let next = 0; // the first token of the group
  draw("surprise", ...found.groups.map(([size, text]) => {
    const places = Array.from({ length: size }, () => next++);
    const kinds = [places.includes(here.place) ? "now" : "", isWritten(places[0]) ? "written" : ""];
    const strength = sum(places.map((place) => bits[place - 1] ?? 0)) / evenBits;
    return el("span", {
      className: kinds.join(" "),
      onclick: () => follow(places.at(-1)),
      title: places.map((place) => `${label(place)} ${surpriseAt(place)}`).join("\n"),
      style: { backgroundColor: tint("odd", strength) },
    }, text.replaceAll("\n", "⏎\n"));
  }));
  draw("mean", chipAt(here.place), ` ${surpriseAt(here.place)}. `);
  const known = bits.slice(0, found.given - 1);
  const mean = sum(known) / known.length;
  byId("mean").append(known.length ? `The mean over your prompt is ${mean.toFixed(2)} bits, or `
    + `${(mean * Math.LN2).toFixed(2)} nats (of 1.44 bits), in which training logs it.` : "");
}

function drawCode({ name, file, first, marked, lines }) {
  return el("details", {},
    el("summary", {}, "The code: ", el("b", {}, name), `, ${file}, line ${first + marked}`),
    el("pre", { tabIndex: 0 }, ...lines.flatMap((line, number) => [
      el("i", {}, `${first + number}  `.padStart(6)),
      number === marked ? el("mark", {}, line) : line, "\n"])));
}

// Show another block or head of the same token.
function show(change) {
  Object.assign(here, change);
  drawHeads();
  drawFeedForward();
}

function follow(place) {
  here.place = Math.max(0, Math.min(tokens.length - 1, place));
  const row = byId("tokens");
  for (const [number, button] of [...row.children].entries()) {
    button.setAttribute("aria-pressed", number === here.place);
  }
  const { offsetLeft, offsetTop } = row.children[here.place];
  row.scrollTo(offsetLeft - row.clientWidth / 2, offsetTop - row.clientHeight / 2);
  fill("here", () => chipAt(here.place));
  fill("answer", () => guess(answer()[0]));
  for (const part of [drawJourney, drawVector, drawLens, drawNext, drawSurprise]) part();
  show({});
}

// Fill the slots in the text, such as `<span data-model="embed_dim">`.
function fill(kind, contentOf) {
  for (const slot of document.querySelectorAll(`[data-${kind}]`)) {
    slot.replaceChildren(contentOf(slot.dataset[kind]));
  }
}

const sizes = { ...found, ...model, head_dim, neurons, even_bits: Math.round(evenBits) };
fill("model", (name) => count(sizes[name]));
fill("code", (step) => drawCode(found.code[step]));
byId("left-out").hidden = !found.left_out;
byId("ablation").hidden = !found.without;
byId("scale").style.background = `linear-gradient(to right, transparent, ${tint("odd", 1)})`;
byId("top-k").max = candidates.ids[0].length + 1; // the last step is all tokens
byId("top-k").value = byId("top-k").max;
draw("tokens", ...tokens.map((_, place) => el("button", {
  className: `token ${isWritten(place) ? "written" : ""}`,
  onclick: () => follow(place),
  title: `${label(place)}: ${isWritten(place) ? "written by the model" : "of your prompt"}`,
}, label(place))));
draw("pieces", ...tokens.map((id, place) => el("span", { className: "piece" },
  chip(label(place), isWritten(place) ? "written" : ""), el("small", {}, `${id}`))));
follow(here.place);

for (const slider of sliders) slider.addEventListener("input", drawNext);
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const isTaken = event.altKey || event.ctrlKey || event.metaKey;
  if (!step || isTaken || event.target.closest("input, .wide, pre")) return;
  event.preventDefault();
  follow(here.place + step);
  if (event.target.closest("#tokens")) byId("tokens").children[here.place].focus();
});
// In a frame, as trackers show pages, a link to "#part" would leave the page: scroll instead.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  const part = byId(link.hash.slice(1));
  part.scrollIntoView();
  part.tabIndex = -1; // so that it can have the focus
  part.focus({ preventScroll: true });
});
