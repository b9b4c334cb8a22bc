"use strict";
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function put(parent, tag, text) {
  const node = parent.appendChild(document.createElement(tag));
  node.textContent = text;
  return node;
}

async function refusal(response) {
  try {
    return (await response.json()).message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

const here = `${location.origin}${location.pathname.replace(/[^/]*$/, "")}`;

function showCurl(address) {
  at("curl").textContent = `curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' ${address}`;
}

// Of a server of many models, which has no card: where to send pictures instead of here.
async function showMany() {
  const response = await fetch("models");
  const models = response.ok ? (await response.json()).models : [];
  const addresses = models.map((model) => `${here}models/${encodeURIComponent(model.modelName)}/invoke`);
  at("about").textContent = addresses.length
    ? "This server has many models, and this page asks none of them. They answer pictures at:"
    : "This server has many models to come, and none is loaded yet: POST /models loads one.";
  at("addresses").replaceChildren();
  for (const address of addresses) put(at("addresses"), "li", address);
  at("addresses").hidden = addresses.length === 0;
  at("drop").hidden = at("model").hidden = true;
  showCurl(addresses[0] ?? `${here}models/NAME/invoke`);
}

async function showCard() {
  let response;
  try {
    response = await fetch("card");
  } catch {
    return null;
  }
  if (!response.ok) {
    at("about").textContent = await refusal(response);
    if (response.status === 404) await showMany().catch(() => {});
    return null;
  }
  const card = await response.json();
  at("about").textContent = `${card.architecture} tells ${card.labels.length} labels apart; ` +
    `${percent(card.test_accuracy)} of its test pictures are labelled rightly.`;
  const rows = {
    "Network": card.architecture,
    "Accuracy on the test split": percent(card.test_accuracy),
    "Probabilities are off by": card.calibration_error === null ? "unknown" : `${percent(card.calibration_error)} on average`,
    "Sees": `${card.width} x ${card.height} px`,
    "Engine": card.engine,
    "Trained": card.created,
  };
  at("card").replaceChildren();
  for (const [name, value] of Object.entries(rows)) {
    put(at("card"), "dt", name);
    put(at("card"), "dd", value);
  }
  at("count").textContent = card.labels.length;
  at("all").replaceChildren();
  for (const label of card.labels) put(at("all"), "li", label);
  return card;
}

function timing(header, total) {
  const phases = (header || "").split(", ").map((part) => part.split(";dur=")).filter((pair) => pair.length === 2);
  const named = phases.map(([name, duration]) => `${name} ${Number(duration).toFixed(0)} ms`);
  return [`${total.toFixed(0)} ms in all`, ...named].join(", ");
}

// Anchors of viridis, whose steps look as large as the numbers are, also to who sees few colours and on paper.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const OPACITY = 0.5;
const VEIL = "rgb(0 0 0 / 50%)";
const MAP_SIDE = 840;  // px of the longer side, twice what is shown, for sharp edges on dense screens

function colour(value) {
  const place = value * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[below].map((from, channel) => from + (place - below) * (RAMP[below + 1][channel] - from));
}

function tile(rows) {
  const canvas = document.createElement("canvas");
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const image = new ImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, place) => image.data.set([...colour(value), 255], 4 * place));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function paint(map) {
  const { naturalWidth, naturalHeight } = at("picture");
  const canvas = at("map");
  const scale = MAP_SIDE / Math.max(naturalWidth, naturalHeight);
  canvas.width = Math.max(1, Math.round(scale * naturalWidth));
  canvas.height = Math.max(1, Math.round(scale * naturalHeight));
  const shorter = Math.min(canvas.width, canvas.height);
  const [width, height] = [map.seen.width * shorter, map.seen.height * shorter];
  const box = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
  const context = canvas.getContext("2d");
  context.fillStyle = VEIL;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...box);
  context.globalAlpha = OPACITY;
  context.drawImage(tile(map.rows), ...box);  // of the default quality: a higher one would flatten the peaks
  return width * height < 0.99 * canvas.width * canvas.height;
}

const PLACES = [
  ["in the upper left", "at the top", "in the upper right"],
  ["on the left", "in the middle", "on the right"],
  ["in the lower left", "at the bottom", "in the lower right"],
];

function placeOfMost(rows) {
  const place = rows.flat().indexOf(1);
  if (place < 0) return "nowhere more than elsewhere";
  const third = (index, count) => Math.floor((3 * (index + 0.5)) / count);
  const row = third(Math.floor(place / rows[0].length), rows.length);
  const column = third(place % rows[0].length, rows[0].length);
  return `most ${PLACES[row][column]}`;
}

let asked = null;  // the file whose answer is shown
let best = 0;  // index of its most probable label
let maps = new Map();  // of this picture, by the label's index
let mapped = null;  // index of the label whose map is shown or on its way

function press(index) {
  mapped = index;
  at("look").setAttribute("aria-pressed", index !== null);
  for (const button of document.querySelectorAll("#labels button")) {
    button.setAttribute("aria-pressed", Number(button.value) === index && index !== null);
  }
  at("map").hidden = at("legend").hidden = at("unmapped").hidden = true;
}

async function fetchMap(index) {
  let response;
  try {
    response = await fetch(`activation-map?label=${index}`, {
      method: "POST",
      body: asked,
      headers: { "Content-Type": "application/octet-stream" },
    });
  } catch {
    throw new Error("the server cannot be reached");
  }
  if (!response.ok) throw new Error(await refusal(response));
  return response.json();
}

async function showMap(index) {
  press(index);
  const known = maps;  // another picture has others
  try {
    if (!known.has(index)) known.set(index, await fetchMap(index));
    await at("picture").decode().catch(() => { throw new Error("this browser cannot show the picture"); });
  } catch (error) {
    if (known !== maps || mapped !== index) return;
    press(null);
    at("unmapped").textContent = error.message;
    at("unmapped").hidden = false;
    return;
  }
  if (known !== maps || mapped !== index) return;
  const map = known.get(index);
  const isVeiled = paint(map);
  at("found").textContent = `What speaks for ${map.label}: ${placeOfMost(map.rows)}.` +
    (isVeiled ? " It did not see what is darkened." : "");
  at("least").textContent = `least, ${map.range.least.toFixed(1)}`;
  at("most").textContent = `${map.range.most.toFixed(1)}, most`;
  at("map").setAttribute("aria-label", `Where the model looked for ${map.label}: ${placeOfMost(map.rows)}`);
  at("map").hidden = at("legend").hidden = false;
}

let shown = "";
let latest = 0;
showCurl(`${here}invocations`);
let carded = showCard();

async function ask(chosen) {
  const number = ++latest;
  press(null);
  at("problem").hidden = true;
  const started = performance.now();
  let response;
  try {
    response = await fetch("invocations", {
      method: "POST",
      body: chosen,
      headers: { "Content-Type": "application/octet-stream", "Accept": "application/json" },
    });
  } catch {
    return complain("the server cannot be reached", number);
  }
  if (!response.ok) return complain(await refusal(response), number);
  const ranked = (await response.json()).predictions;
  const took = performance.now() - started;
  const card = (await carded) || (await (carded = showCard()));  // it may have been loading when the page was
  if (number !== latest) return;
  press(null);
  [asked, best, maps] = [chosen, ranked[0].index, new Map()];
  at("where").hidden = !card?.has_activation_map;
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(chosen);
  at("picture").src = shown;
  at("picture").alt = `The picture: ${chosen.name}`;
  at("name").textContent = chosen.name;
  at("verdict").textContent = `${ranked[0].label}, ${percent(ranked[0].probability)}`;
  at("timing").textContent = timing(response.headers.get("Server-Timing"), took);
  at("labels").replaceChildren();
  for (const entry of ranked) {
    const row = put(at("labels"), "li", "");
    put(card?.has_activation_map ? mapButton(row, entry) : row, "bdi", entry.label);
    put(row, "span", percent(entry.probability));
    const bar = put(row, "progress", "");
    bar.max = 1;
    bar.value = entry.probability;
    bar.setAttribute("aria-label", entry.label);
  }
  at("answer").hidden = false;
}

function mapButton(row, entry) {
  const button = put(row, "button", "");
  button.type = "button";
  button.value = entry.index;
  button.title = `Where did it look for ${entry.label}?`;
  button.setAttribute("aria-pressed", "false");
  row.addEventListener("click", () => (mapped === entry.index ? press(null) : showMap(entry.index)));
  return button;
}

function complain(sentence, number) {
  if (number !== latest) return;
  at("answer").hidden = true;
  at("problem").textContent = sentence;
  at("problem").hidden = false;
}

at("file").addEventListener("change", (event) => event.target.files[0] && ask(event.target.files[0]));
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) ask(file);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) ask(file);
});
at("look").addEventListener("click", () => (mapped === null ? showMap(best) : press(null)));
at("drop").addEventListener("submit", (event) => event.preventDefault());
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  at("copy").textContent = "Copied";
});
