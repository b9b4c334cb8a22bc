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

async function showCard() {
  const response = await fetch("card");
  if (!response.ok) {
    at("about").textContent = await refusal(response);
    return;
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
}

function timing(header, total) {
  const phases = (header || "").split(", ").map((part) => part.split(";dur=")).filter((pair) => pair.length === 2);
  const named = phases.map(([name, duration]) => `${name} ${Number(duration).toFixed(0)} ms`);
  return [`${total.toFixed(0)} ms in all`, ...named].join(", ");
}

let shown = "";
let latest = 0;

async function ask(file) {
  const number = ++latest;
  at("problem").hidden = true;
  const started = performance.now();
  let response;
  try {
    response = await fetch("invocations", {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream", "Accept": "application/json" },
    });
  } catch {
    return complain("the server cannot be reached", number);
  }
  if (!response.ok) return complain(await refusal(response), number);
  const ranked = (await response.json()).predictions;
  if (number !== latest) return;
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  at("picture").src = shown;
  at("picture").alt = `The picture: ${file.name}`;
  at("name").textContent = file.name;
  at("verdict").textContent = `${ranked[0].label}, ${percent(ranked[0].probability)}`;
  at("timing").textContent = timing(response.headers.get("Server-Timing"), performance.now() - started);
  at("labels").replaceChildren();
  for (const entry of ranked) {
    const row = put(at("labels"), "li", "");
    put(row, "bdi", entry.label);
    put(row, "span", percent(entry.probability));
    const bar = put(row, "progress", "");
    bar.max = 1;
    bar.value = entry.probability;
    bar.setAttribute("aria-label", entry.label);
  }
  at("answer").hidden = false;
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
at("drop").addEventListener("submit", (event) => event.preventDefault());
at("curl").textContent = `curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' ${location.origin}${location.pathname.replace(/[^/]*$/, "")}invocations`;
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("curl").textContent);
  at("copy").textContent = "Copied";
});
showCard();
