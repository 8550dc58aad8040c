// One image with all that there is of it: one layer as colour, others as outlines, and what lies under the pointer.
const FINE = 4; // an outline's canvas is so many times finer than a mask
const OUTLINES = { "pseudo-mask": "#ff9346", "prediction": "#56b4e9", "fully supervised": "#3ccb9b" };
const outlineColour = (layer) => OUTLINES[layer] ?? (layer.startsWith("map:") ? "#c9a6ff" : "#ffffff");
const titleOf = (layer) => layer.startsWith("map:") ? `${layer.slice(4)} at τ` : layer;
let seenNow = null, colour = null, outlined = new Set(), point = null;

const stage = {
  photo: element("img", { alt: "" }), fill: element("canvas"), lines: element("canvas"), cross: element("i", { className: "cross" }),
};
const frame = element("div", {
  className: "frame", tabIndex: 0, role: "group", "aria-label": "The image; arrow keys move the point that is read",
  onpointermove: (event) => pointAt(event), onpointerdown: (event) => pointAt(event),
}, stage.photo, stage.fill, stage.lines, stage.cross);
const side = {
  colour: element("div", { className: "options" }), outline: element("div", { className: "options" }),
  opacity: element("input", { type: "range", min: 0, max: 100, value: 68, oninput: redraw }),
  threshold: element("input", { type: "range", min: 0, max: 100, step: 1, oninput: redraw }),
  thresholdText: element("output"), read: element("dl", { className: "read", "aria-live": "polite" }), key: element("p", { className: "chart-legend" }),
};
const used = run.threshold ?? 0.3;
side.threshold.value = Math.round(100 * used);
const thresholdRow = element("div", { className: "threshold" }, element("label", {}, element("span", {}, "Threshold τ of the maps ", side.thresholdText), side.threshold),
  element("button", { type: "button", onclick: () => { side.threshold.value = Math.round(100 * used); redraw(); } }, run.threshold === null ? "back" : "as used"));
const title = element("h2", { id: "viewer-title" }), facts = element("p", { className: "sub" }), tagList = element("ul", { className: "tags" });
const viewer = element("dialog", { className: "viewer", tabIndex: -1, "aria-labelledby": "viewer-title" },
  element("header", {}, element("div", {}, title, facts, tagList),
    element("div", { className: "steps-of-viewer" },
      element("button", { type: "button", "aria-label": "Previous image", onclick: () => step(-1) }, "←"),
      element("button", { type: "button", "aria-label": "Next image", onclick: () => step(1) }, "→"),
      element("button", { type: "button", onclick: () => viewer.close() }, "Close"))),
  element("div", { className: "desk" }, element("div", { className: "stage" }, frame),
    element("div", { className: "panel" },
      element("fieldset", {}, element("legend", {}, "Colour"), side.colour, side.key, element("label", { className: "wide-label" }, "Opacity", side.opacity)),
      element("fieldset", {}, element("legend", {}, "Outlines"), side.outline),
      thresholdRow,
      element("fieldset", {}, element("legend", {}, "At the point"), side.read))));
document.body.append(viewer);

function layersOf(image) {
  return [...Object.keys(image.maps).map((name) => `map:${name}`), ...image.masks];
}
// What can be painted, in groups: layers, single maps, and where layers are wrong.
function colourings(image) {
  const layers = layersOf(image), truth = reference(image);
  const maps = Object.entries(image.maps).flatMap(([name, values]) => values.map((value, place) => [`heat:${name}:${place}`, `${name}: ${className(value)}`]));
  const wrong = truth ? layers.filter((layer) => layer !== truth).map((layer) => [`error:${layer}`, titleOf(layer)]) : [];
  const classes = [["", "nothing"], ...layers.map((layer) => [layer, titleOf(layer)])];
  return [["Classes", classes], ["Maps", maps], [`Wrong against ${truth}`, wrong]].filter(([, options]) => options.length);
}

let opener = null;
function open() {
  if (viewer.open) return;
  opener = document.activeElement;
  viewer.showModal();
  viewer.focus(); // so that arrow keys lead to other images at once
}
async function compare(image) {
  try {
    seenNow = await pictures(image);
  } catch (error) {
    seenNow = null;
    title.textContent = error.message;
    open();
    return;
  }
  title.textContent = image.name;
  facts.textContent = [image.splits.join(", "), image.miou !== null && `${percent(image.miou)} mIoU and ${percent(image.wrong)} % wrong pixels (${image.judged})`,
    image.confidence !== null && `mean confidence ${percent(image.confidence)}`].filter(Boolean).join(" · ");
  tagList.replaceChildren(...(image.tags ?? []).map((value) => element("li", {}, swatchOf(value), className(value))));
  const groups = colourings(image);
  if (!groups.some(([, options]) => options.some(([value]) => value === colour))) colour = image.judged;
  side.colour.replaceChildren(...groups.flatMap(([name, options]) => [element("p", {}, name), ...options.map(([value, text]) => element("label", {},
    element("input", { type: "radio", name: "colouring", value, checked: value === colour, onchange: () => { colour = value; redraw(); } }), text))]));
  side.outline.replaceChildren(...layersOf(image).map((layer) => {
    const line = element("i", { className: "line-key" });
    line.style.background = outlineColour(layer);
    return element("label", {}, element("input", { type: "checkbox", checked: outlined.has(layer), onchange: (event) => {
      if (event.target.checked) outlined.add(layer); else outlined.delete(layer);
      redraw();
    } }), line, titleOf(layer));
  }));
  thresholdRow.hidden = !Object.keys(image.maps).length;
  stage.photo.src = seenNow.photo || "data:,";
  stage.photo.hidden = !seenNow.photo;
  frame.style.setProperty("--r", seenNow.width / seenNow.height);
  point = [0.5, 0.5];
  open();
  redraw();
  history.replaceState(null, "", addressOf(image));
}

function redraw() {
  if (!seenNow) return;
  const threshold = side.threshold.value / 100;
  side.thresholdText.textContent = threshold.toFixed(2);
  paint(stage.fill, seenNow, colour, threshold);
  stage.fill.style.opacity = side.opacity.value / 100;
  stage.lines.width = FINE * seenNow.width;
  stage.lines.height = FINE * seenNow.height;
  for (const layer of layersOf(seenNow.image)) {
    if (outlined.has(layer)) outline(stage.lines, labelsOf(seenNow, layer, threshold), seenNow.width, seenNow.height, outlineColour(layer), FINE);
  }
  const errors = colour.startsWith("error:") ? Object.values(ERRORS) : [];
  side.key.replaceChildren(...errors.map(([text, channels]) => {
    const mark = element("span", { className: "key shape" }, text);
    mark.style.setProperty("--k", `rgb(${channels.join(" ")})`);
    return mark;
  }));
  read();
}

function pointAt(event) {
  const box = frame.getBoundingClientRect();
  point = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.min(0.9999, Math.max(0, share)));
  read();
}
function read() {
  const x = Math.floor(point[0] * seenNow.width), y = Math.floor(point[1] * seenNow.height), at = y * seenNow.width + x;
  stage.cross.style.left = `${100 * point[0]}%`;
  stage.cross.style.top = `${100 * point[1]}%`;
  const rows = layersOf(seenNow.image).map((layer) => {
    const value = labelsOf(seenNow, layer, side.threshold.value / 100)[at];
    const scores = layer.startsWith("map:") ? seenNow.image.maps[layer.slice(4)].map((one, k) => `${className(one)} ${(seenNow.maps[layer.slice(4)][k][at] / 100).toFixed(2)}`).join(", ") : "";
    const sure = layer === "pseudo-mask" && seenNow.confidence ? `confidence ${(seenNow.confidence[at] / 100).toFixed(2)}` : "";
    return [titleOf(layer), swatchOf(value), className(value), scores || sure];
  });
  side.read.replaceChildren(...rows.flatMap(([name, mark, text, extra]) => [element("dt", {}, name), element("dd", {}, mark, text, extra && element("small", {}, extra))]));
}

function step(by) {
  const at = listed.indexOf(seenNow?.image), next = listed[at + by];
  if (next) compare(next);
}
viewer.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "INPUT") return;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  if (event.target === frame) {
    point = point.map((share, k) => Math.min(0.9999, Math.max(0, share + move[k] / (k ? seenNow.height : seenNow.width))));
    read();
  } else if (move[0]) step(move[0]);
  else return;
  event.preventDefault();
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("close", () => {
  history.replaceState(null, "", "#images");
  if (opener?.closest(".row")) opener.focus();
  else focusShot(Math.max(0, listed.indexOf(seenNow?.image)));
});

list();
function follow() {
  const wanted = run.images.find((image) => addressOf(image) === location.hash);
  if (wanted) compare(wanted);
}
addEventListener("hashchange", follow);
follow();
