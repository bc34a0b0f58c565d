
// The page of `python . explain`: follow one token through the network.

const { tokens, labels, model, guesses } = found;
const last = found.given - 1;                      // the last token of the prompt
const numNeurons = 4 * model.embed_dim;
const evenBits = Math.log2(model.vocab_size);
const here = { place: last, layer: 0, head: 0 };   // what is shown now
const parts = ["the token itself", "its place in the text"];
for (let block = 1; block <= model.num_layers; block++)
  parts.push(`block ${block}: attention`, `block ${block}: feed-forward`);
const layerOf = (part) => Math.floor(part / 2) - 1;
const label = (place) => labels[tokens[place]];
const chipAt = (place) => chip(label(place), place === here.place ? "here" : place > last ? "written" : "");
const guess = (id) => chip(labels[id], tokens[here.place + 1] === id ? "came" : "");
const named = (chip, share) => el("span", { className: "named" }, chip, ` ${percent(share)}`);
const bar = (width, hue = "guess") => el("span", { className: "bar", style: { width, background: `var(--${hue})` } });
// The most likely tokens after a part, with their chances; before the last part, all but the token itself.
const guessesAt = (part, place) => guesses[part].ids[place].map((id, rank) => [id, guesses[part].values[place][rank]]);
// The chance of the token itself, which the guesses before the last part leave out.
const itselfAt = (part) => part === parts.length - 1 ? "" : `(itself: ${percent(guesses[part].itself[here.place])})`;
const answer = () => guessesAt(parts.length - 1, here.place)[0];

// Rows of integers that Python packed, each with the power of two that scales it.
function unpack({ exponents, data }, Kind) {
  const all = new Kind(Uint8Array.from(atob(data), (char) => char.charCodeAt(0)).buffer);
  const size = all.length / exponents.length;
  return exponents.map((exponent, row) => Array.from(all.subarray(row * size, (row + 1) * size), (n) => n * 2 ** exponent));
}

function softmax(scores) {
  const highest = Math.max(...scores), powers = scores.map((score) => Math.exp(score - highest)), total = sum(powers);
  return powers.map((power) => power / total);
}

// Of each head and token: its scores of the tokens up to itself, and the shares that follow.
const scores = unpack(found.scores, Int16Array).map((head) =>
  tokens.map((_, place) => head.slice(place * (place + 1) / 2, (place + 1) * (place + 2) / 2)));
const shares = scores.map((head) => head.map(softmax));
const vectors = unpack(found.vectors, Int8Array);

// Squares coloured by a strength from -1 (orange) to 1, as few paths.
function heat(description, rows, settings = {}) {
  const levels = new Map(), width = rows.at(-1).length;
  rows.forEach((row, y) => row.forEach((strength, x) => {
    const level = Math.round(10 * Math.max(-1, Math.min(1, strength)));
    if (level) levels.set(level, `${levels.get(level) ?? ""}M${x} ${y}h1v1h-1z`);
  }));
  return svg("svg", { class: "heat", viewBox: `0 0 ${width} ${rows.length}`, preserveAspectRatio: "none",
    role: "img", "aria-label": description, ...settings },
    svg("path", { d: rows.map((row, y) => `M${row.length} ${y}H${width}v1H${row.length}z`).join(""), fill: "var(--line)", "fill-opacity": 0.6 }),
    ...[...levels].map(([level, d]) => svg("path", { d, fill: `var(--${level < 0 ? "odd" : "look"})`, "fill-opacity": Math.abs(level) / 10 })));
}

function drawJourney() {
  const step = (part) => part < 2 ? "#vectors-step" : part % 2 ? "#feed-step" : "#attention-step";
  draw("parts", ...parts.map((part, number) => {
    const rank = guesses[number].ranks[here.place];
    return el("li", {},
      el("a", { href: step(number), className: "part", onclick: () => show({ layer: Math.max(0, layerOf(number)) }) }, part),
      el("div", { className: "did" }, ...whatItDid(number)),
      el("div", { className: "guesses" }, ...guessesAt(number, here.place).slice(0, 3).map(([id, chance]) =>
        el("span", {}, named(guess(id), chance), bar(`${100 * chance}%`))), el("span", { className: "did" }, itselfAt(number))),
      el("div", { className: "climb" }, bar(`${100 * (1 - Math.log2(rank) / evenBits)}%`, "look"), `answer: rank ${count(rank)}`));
  }));
  const [id, chance] = answer(), next = here.place + 1;
  draw("said", "So after ", chipAt(here.place), " the model says ", guess(id), ` with a chance of ${percent(chance)}. `,
    ...(next < tokens.length ? ["What came is ", guess(tokens[next]), `, rank ${count(found.ranks[here.place])} of its guesses.`] : []));
}

function whatItDid(part) {
  if (part === 0) return ["a row of a table: it knows no other token"];
  if (part === 1) return [`token ${here.place + 1}`];
  if (part % 2) return [`${count(found.fired[layerOf(part)][here.place])} of ${count(numNeurons)} neurons fired`];
  const heads = shares.slice(layerOf(part) * model.num_heads, (layerOf(part) + 1) * model.num_heads);
  const looks = tokens.slice(0, here.place + 1).map((_, place) => [place, sum(heads.map((head) => head[here.place][place])) / heads.length]);
  return ["looked at, heads' mean: ", ...looks.sort((a, b) => b[1] - a[1]).slice(0, 3).map(([place, share]) => named(chipAt(place), share))];
}

function drawVectors() {
  const [token, place] = [vectors[here.place], vectors[tokens.length + here.place]];
  const largest = Math.max(...token.map(Math.abs), ...place.map(Math.abs));
  const rows = { "the token": token, "its place": place, "together": token.map((value, channel) => value + place[channel]) };
  draw("vectors", ...Object.entries(rows).map(([name, values]) => el("div", { className: "stripe" }, el("span", {}, name),
    heat(`${name}: ${values.length} numbers as colours`, [values.map((value) => value / largest)]))),
    el("p", { className: "note" }, `One stripe for each of ${model.embed_dim} numbers: blue above zero, orange below, the strongest at ±${largest.toFixed(2)}.`));
}

function drawBlocks() {
  for (const id of ["attention-blocks", "feed-blocks"])
    draw(id, ...Array.from({ length: model.num_layers }, (_, layer) => el("button", { id: `${id}-${layer}`,
      className: "button", "aria-pressed": layer === here.layer, onclick: () => show({ layer }) }, `Block ${layer + 1}`)));
}

function drawHeads() {
  const [id, chance] = answer(), first = here.layer * model.num_heads;
  draw("heads", ...shares.slice(first, first + model.num_heads).map((ofHead, head) => {
    const row = ofHead[here.place], [habit, share] = found.habits[first + head], without = found.without?.[first + head][here.place];
    return el("button", { className: "head", id: `head-${head}`, "aria-pressed": head === here.head, onclick: () => show({ head }) },
      heat("", ofHead.map((row) => row.map(Math.sqrt)), { "aria-hidden": true }),
      el("span", {}, el("b", {}, `Head ${head + 1}`), habit && ` mostly looks at ${habit}: ${percent(share)}`,
        ...(without === undefined ? [] : [el("br"), "without it: ", el("span", { className: "named" }, guess(id), ` ${percent(chance)} → ${percent(without)}`)])),
      el("span", { className: "text" }, ...tokens.map((_, place) => el("span", {
        className: place > here.place ? "later" : place === here.place ? "now" : "", title: place > here.place ? "" : percent(row[place]),
        style: { backgroundColor: place > here.place ? "" : tint("look", Math.sqrt(row[place])) } }, label(place)))));
  }));
  byId("head-title").textContent = `Block ${here.layer + 1}, head ${here.head + 1}: who looks at whom, and how the shares come about`;
  draw("head", el("figure", { className: "wide", tabIndex: 0 }, drawMatrix(shares[first + here.head]),
    el("figcaption", {}, "A row is a token that looks, a column one that is looked at; grey: it comes later. The frame is the chosen token.")),
    el("figure", { className: "wide", tabIndex: 0 }, drawShares(scores[first + here.head][here.place], shares[first + here.head][here.place]),
    el("figcaption", {}, "The softmax of the framed row: e to the score, divided by the sum of all.")));
}

function drawMatrix(ofHead) {
  const n = tokens.length, size = Math.max(8, Math.min(36, 430 / n)), font = Math.min(13, size);
  const names = tokens.map((_, place) => Array.from(label(place)).slice(0, 11));
  const edge = 12 + font * Math.max(...names.map((name) => sum(name.map((char) => char < "\u2e80" ? 0.62 : 1.05))));
  const text = (place, settings) => svg("text", { "font-weight": place === here.place ? 700 : 400, ...settings }, names[place].join(""));
  const side = edge + n * size + 2;
  const whole = svg("svg", { viewBox: `0 0 ${side} ${side}`, width: side, "font-size": font, class: "matrix",
    role: "img", "aria-label": `Who looks at whom: ${n} by ${n} tokens` },
    heat("shares", ofHead.map((row) => row.map(Math.sqrt)), { x: edge, y: edge, width: n * size, height: n * size }),
    ...tokens.flatMap((_, place) => [
      text(place, { x: edge - 5, y: edge + (place + 0.5) * size + font / 3, "text-anchor": "end" }),
      text(place, { transform: `translate(${edge + (place + 0.5) * size + font / 3} ${edge - 5}) rotate(-90)` })]),
    svg("rect", { x: edge, y: edge + here.place * size, width: (here.place + 1) * size, height: size, rx: 3, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 }));
  whole.style.minWidth = `${Math.min(side, 20 * n)}px`;
  whole.addEventListener("click", (event) => {
    const box = whole.getBoundingClientRect();
    follow(Math.floor(((event.clientY - box.top) / box.height * side - edge) / size));
  });
  return whole;
}

function drawShares(score, share) {
  const order = share.map((_, place) => place).sort((a, b) => share[b] - share[a]), rest = order.slice(7);
  const digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3 };
  const row = (name, score, power, share) => [name, score, power.toLocaleString("en", digits), percent(share), bar(`${6 * share}rem`, "look")];
  return table(["looks at", "score s", "e to the s", "share", ""], [
    ...order.slice(0, 7).map((place) => row(chipAt(place), fixed(score[place], 2), Math.exp(score[place]), share[place])),
    ...(rest.length ? [row(`${rest.length} more`, "", sum(rest.map((place) => Math.exp(score[place]))), sum(rest.map((place) => share[place])))] : []),
    ["sum", "", sum(score.map(Math.exp)).toLocaleString("en", digits), "100 %", ""]], [1, 2, 3]);
}

function drawNeurons() {
  const part = 2 * here.layer + 3;                 // the feed-forward layer of the block
  const list = (part) => guessesAt(part, here.place).map(([id, chance]) => named(guess(id), chance)).concat(itselfAt(part));
  draw("neurons", table([`block ${here.layer + 1}`, ["the guesses after ", chipAt(here.place)]], [
    ["before it", list(part - 1)], [`${whatItDid(part)}, then`, list(part)]]));
}

function drawLens() {
  const cell = (place, content, settings) => el("td", { className: place === here.place ? "now" : "", onclick: () => follow(place) }, el("span", settings, content));
  const row = (name, content) => el("tr", {}, el("th", { scope: "row" }, name), ...tokens.map((_, place) => content(place)));
  draw("lens", row("after", (place) => cell(place, label(place), { className: "head" })),
    ...parts.map((part, number) => row(part, (place) => {
      const all = guessesAt(number, place), [id, chance] = all[0];
      return cell(place, labels[id], { className: id === tokens[place + 1] ? "right" : "", style: { backgroundColor: tint("guess", chance ** 0.7) },
        title: all.map(([id, chance]) => `${labels[id]}  ${percent(chance)}`).join("\n") });
    })),
    row("came", (place) => cell(place, place + 1 < tokens.length ? label(place + 1) : "?", { className: "head" })));
  const column = byId("lens").querySelector(".now"), wide = byId("lens-scroll");
  wide.scrollLeft += column.getBoundingClientRect().left - wide.getBoundingClientRect().left - wide.clientWidth / 2;
}

function drawVotes() {
  const votes = found.votes.map((voter) => voter[here.place]), largest = Math.max(...votes.map(Math.abs)), total = sum(votes);
  const signed = (vote) => (vote < 0 ? "" : "+") + fixed(vote, 2), [id] = answer(), logit = found.candidates.values[here.place][0];
  draw("votes", table(["part", "vote", ""], [
    ...votes.map((vote, voter) => [parts[voter] ?? "biases, for any text", signed(vote), el("span", { className: `vote ${vote < 0 ? "against" : "for"}` },
      bar(`${100 * Math.abs(vote) / largest}%`, vote < 0 ? "odd" : "look"))]),
    [el("b", {}, "sum"), el("b", {}, signed(total)), ["= logit of ", guess(id), ` ${fixed(logit, 2)} − average ${fixed(logit - total, 2)}`]]], [1]));
}

// Chances after temperature, top-k and top-p: of the candidates, then of all others together.
function chances() {
  const [temperature, topK, topP] = ["temperature", "top-k", "top-p"].map((id) => Number(byId(id).value));
  const logits = found.candidates.values[here.place], keepsAll = topK > logits.length || topK === Number(byId("top-k").max);
  const power = (logit) => Math.exp((logit - logits[0]) / temperature);
  const all = [...logits.map((logit) => [power(logit), 1]), ...found.others[here.place].map(([logit, number]) => [power(logit), number]).reverse()];
  const allowed = keepsAll ? all : all.slice(0, topK);
  const total = sum(allowed.map(([power, number]) => power * number));
  let before = 0;                                  // what more likely tokens reach together
  const kept = allowed.map(([power, number]) => {
    const room = Math.max(0, Math.ceil((topP * total - before) / power - 1e-9));
    before += power * number;
    return power * (topP < 1 ? Math.min(number, room) : number);
  });
  const left = sum(kept);
  return [...logits.map((_, rank) => (kept[rank] ?? 0) / left), sum(kept.slice(logits.length)) / left];
}

function drawNext() {
  const [temperature, topK, topP] = ["temperature", "top-k", "top-p"].map(byId);
  temperature.nextElementSibling.value = Number(temperature.value).toFixed(2);
  topK.nextElementSibling.value = topK.value === topK.max ? "all" : topK.value;
  topP.nextElementSibling.value = topP.value === topP.max ? "all" : Number(topP.value).toFixed(2);
  const ids = found.candidates.ids[here.place], share = chances(), shown = ids.slice(0, 10);
  const others = sum(share.slice(shown.length)), largest = Math.max(...share, others);
  const row = (name, logit, share) => [name, logit, share ? percent(share) : "–", bar(`${100 * share / largest}%`)];
  draw("next", table([["after ", chipAt(here.place)], "logit z", "chance p", ""], [
    ...shown.map((id, rank) => row(guess(id), fixed(found.candidates.values[here.place][rank], 2), share[rank])),
    row(`${count(model.vocab_size - shown.length)} others`, "", others)], [1, 2]));
}

function drawOne() {
  let point = Math.random();
  const rank = chances().findIndex((share) => (point -= share) < 0), id = found.candidates.ids[here.place][rank];
  byId("drawn").append(byId("drawn").childNodes.length ? " " : "Drawn: ", id === undefined ? "(one of the others)" : chip(labels[id]));
}

const surpriseAt = (place) => `had a chance of ${percent(2 ** -found.bits[place - 1])}: ${found.bits[place - 1].toFixed(1)} bits`;
function drawSurprise() {
  let next = 0;                                    // the first token of the group
  draw("surprise", ...found.groups.map(([size, text]) => {
    const places = Array.from({ length: size }, () => next++), known = places.filter((place) => place > 0);
    const bits = sum(known.map((place) => found.bits[place - 1]));
    const title = known.map((place) => `${label(place)} ${surpriseAt(place)}, rank ${count(found.ranks[place - 1])} of the guesses; `
      + `the first was ${labels[found.candidates.ids[place - 1][0]]}`).join("\n");
    return el("span", { className: `${places.includes(here.place) ? "now" : ""} ${places[0] > last ? "written" : ""} ${known.length ? "" : "first"}`, onclick: () => follow(places.at(-1)),
      title: title || "nothing came before it", style: { backgroundColor: tint("odd", bits / evenBits) } },
      ...text.split(/(?<=\n)/).flatMap((line) => line.endsWith("\n") ? [el("i", {}, "⏎"), line] : [line]));
  }));
  const bits = found.bits.slice(0, last), mean = sum(bits) / bits.length;
  draw("mean", ...(here.place ? ["After ", chipAt(here.place - 1), ", ", chipAt(here.place), ` ${surpriseAt(here.place)}. `]
    : [chipAt(here.place), " is the first token: nothing was expected. "]),
    bits.length ? `The mean over the predicted tokens of your prompt (${bits.length}) is ${mean.toFixed(2)} bits, a loss of ${(mean * Math.LN2).toFixed(2)} nats.` : "");
}

function drawCode({ name, file, first, marked, lines }) {
  return el("details", {}, el("summary", {}, "The code: ", el("b", {}, name), `, ${file}, line ${first + marked}`),
    el("pre", { tabIndex: 0 }, ...lines.flatMap((line, number) => [el("i", {}, `${first + number}  `.padStart(6)),
      number === marked ? el("mark", {}, line) : line, "\n"])));
}

function show(change) {
  Object.assign(here, change);
  drawBlocks(); drawHeads(); drawNeurons();
}

function follow(place) {
  here.place = Math.max(0, Math.min(tokens.length - 1, place));
  for (const [number, button] of [...byId("tokens").children].entries()) button.setAttribute("aria-pressed", number === here.place);
  const row = byId("tokens"), button = row.children[here.place];
  row.scrollTo(button.offsetLeft - row.clientWidth / 2, button.offsetTop - row.clientHeight / 2);
  for (const slot of document.querySelectorAll("[data-here]")) slot.replaceChildren(chipAt(here.place));
  for (const slot of document.querySelectorAll("[data-answer]")) slot.replaceChildren(guess(answer()[0]));
  byId("drawn").replaceChildren();
  for (const part of [drawJourney, drawVectors, drawLens, drawVotes, drawNext, drawSurprise]) part();
  show({});
}

const written = tokens.length - found.given;
byId("lead").textContent = `${found.given === 1 ? "One token" : `${found.given} tokens`} of yours`
  + `${written ? `, and ${written} that the model wrote after that,` : ""} on the way through ${count(model.parameters)} learned numbers.`;
if (found.leftOut) byId("left-out").textContent = `The prompt is longer than this page has room for: its first ${count(found.leftOut)} tokens were left out, and the model did not see them.`;
byId("about").textContent = `Model ${model.digest}: ${model.num_layers} blocks of ${model.num_heads} heads, vectors of ${model.embed_dim} numbers, `
  + `${count(model.vocab_size)} tokens; it looks back over ${count(model.block_size)} tokens. This page is one file and loads nothing.`;
const sizes = { ...model, head_dim: model.embed_dim / model.num_heads, neurons: numNeurons, even_bits: Math.round(evenBits) };
byId("ablation").hidden = !found.without;
byId("scale").append("0 bits ", el("i", { style: { background: `linear-gradient(to right, transparent, ${tint("odd", 1)})` } }),
  ` ${evenBits.toFixed(0)} bits or more; hatched: the first token, of which nothing was expected.`);
for (const slot of document.querySelectorAll("[data-model]")) slot.textContent = count(sizes[slot.dataset.model]);
for (const slot of document.querySelectorAll("[data-code]")) slot.replaceChildren(drawCode(found.code[slot.dataset.code]));
draw("tokens", ...tokens.map((_, place) => el("button", { className: `token ${place > last ? "written" : ""}`, onclick: () => follow(place),
  title: `${label(place)}: ${place > last ? "written by the model" : "of your prompt"}` }, label(place))));
draw("pieces", ...tokens.map((id, place) => el("span", { className: "piece" }, chip(label(place), place > last ? "written" : ""),
  el("small", {}, `${id}`), el("small", {}, found.bytes[place] === 1 ? "1 byte" : `${found.bytes[place]} bytes`))));
follow(last);

for (const id of ["temperature", "top-k", "top-p"]) byId(id).addEventListener("input", drawNext);
byId("draw").addEventListener("click", drawOne);
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, .wide, pre")) return;
  event.preventDefault();
  follow(here.place + step);
  if (event.target.closest("#tokens")) byId("tokens").children[here.place].focus();
});
const steps = new IntersectionObserver((seen) => {
  const now = seen.find(({ isIntersecting }) => isIntersecting);
  for (const link of now ? document.querySelectorAll("nav a") : [])
    link.setAttribute("aria-current", link.hash === `#${now.target.id}` ? "step" : "false");
}, { rootMargin: "-30% 0px -60% 0px" });
document.querySelectorAll("section").forEach((section) => steps.observe(section));
