// What is packed into the page or lies beside it, and how it is painted. Masks are label values, a byte a pixel.
const run = JSON.parse(document.getElementById("images-index").textContent);
const rgb = (css) => [1, 3, 5].map((at) => parseInt(css.slice(at, at + 2), 16));
const COLOURS = new Map(run.classes.map(([, css], value) => [value, rgb(css)]));
COLOURS.set(run.ignore, rgb("#e0e0e0"));
const HEAT = run.heat.map(rgb);
const ERRORS = {
  extra: ["object where there is none", rgb("#d81b60")],
  missed: ["object missed", rgb("#f0b400")],
  taken: ["taken for another class", rgb("#00c2e0")],
};
run.images.forEach((image, place) => { image.place = place; });

const className = (value) => value === run.ignore ? "uncertain or unlabelled" : run.classes[value]?.[0] ?? `value ${value}`;
const classColour = (value) => `rgb(${(COLOURS.get(value) ?? [128, 128, 128]).join(" ")})`;
const reference = (image) => image.masks.find((mask) => run.references.includes(mask));
const percent = (share, digits = 1) => share === null ? "–" : (100 * share).toFixed(digits);

const parts = new Map(), arriving = new Map();
window.maskwrightPart = (number, list) => arriving.get(number)(list);
function part(number) {
  if (!parts.has(number)) {
    parts.set(number, run.beside ? new Promise((resolve, reject) => {
      arriving.set(number, resolve);
      const script = document.createElement("script");
      script.src = `${run.beside}/pictures-${number}.js`;
      script.onerror = () => reject(new Error(`${run.beside}/pictures-${number}.js does not lie beside this page`));
      document.head.append(script);
    }) : Promise.resolve(JSON.parse(document.getElementById(`pictures-${number}`).textContent)));
  }
  return parts.get(number);
}

async function pictures(image) {
  const [photo, packed] = (await part(Math.floor(image.place / run.perPart)))[image.place % run.perPart];
  const text = atob(packed), compressed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const [width, height] = image.size, [mapWidth, mapHeight] = image.mapSize;
  let start = 0;
  const take = (length) => bytes.subarray(start, start += length);
  const soft = () => {
    const values = take(mapWidth * mapHeight);
    for (let i = 1; i < values.length; i++) values[i] += values[i - 1];
    return stretch(values, mapWidth, mapHeight, width, height);
  };
  const masks = {}, maps = {};
  for (const name of image.masks) masks[name] = take(width * height);
  for (const [title, values] of Object.entries(image.maps)) maps[title] = values.map(soft);
  return { image, photo, masks, maps, confidence: image.sure ? soft() : null, width, height };
}

// A map in per cent at the size of the masks, bilinear.
function stretch(values, fromWidth, fromHeight, width, height) {
  const found = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const v = Math.min(fromHeight - 1, Math.max(0, (y + 0.5) * fromHeight / height - 0.5));
    const top = Math.floor(v), bottom = Math.min(fromHeight - 1, top + 1), b = v - top;
    for (let x = 0; x < width; x++) {
      const u = Math.min(fromWidth - 1, Math.max(0, (x + 0.5) * fromWidth / width - 0.5));
      const left = Math.floor(u), right = Math.min(fromWidth - 1, left + 1), a = u - left;
      found[y * width + x] = (1 - b) * ((1 - a) * values[top * fromWidth + left] + a * values[top * fromWidth + right])
        + b * ((1 - a) * values[bottom * fromWidth + left] + a * values[bottom * fromWidth + right]);
    }
  }
  return found;
}

// Where no tagged class scores above the threshold a pixel is background; else the class that scores highest.
function maskOfMaps(seen, title, threshold) {
  const maps = seen.maps[title], values = seen.image.maps[title], found = new Uint8Array(seen.width * seen.height);
  const none = run.background ?? run.ignore;
  for (let i = 0; i < found.length; i++) {
    let best = 100 * threshold, value = none;
    for (let k = 0; k < maps.length; k++) if (maps[k][i] > best) { best = maps[k][i]; value = values[k]; }
    found[i] = value;
  }
  return found;
}

// The label values of a layer: a mask of the run, or maps at a threshold ("map:seed").
function labelsOf(seen, layer, threshold) {
  const title = layer.startsWith("map:") ? layer.slice(4) : "";
  if (title) return title in seen.maps ? maskOfMaps(seen, title, threshold) : null;
  return seen.masks[layer] ?? null;
}

function errorOf(value, truth) {
  if (value === truth || value === run.ignore || truth === run.ignore) return "";
  return truth === run.background ? "extra" : value === run.background ? "missed" : "taken";
}

// Paints what is chosen: "" for nothing, a layer, "heat:TITLE:PLACE", or "error:LAYER". Gives whether there is such a thing.
function paint(canvas, seen, what, threshold) {
  canvas.width = seen.width;
  canvas.height = seen.height;
  const context = canvas.getContext("2d"), pixels = context.createImageData(seen.width, seen.height), data = pixels.data;
  const put = (i, colour, alpha) => {
    [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = colour;
    data[4 * i + 3] = alpha;
  };
  const [kind, title, place] = what.split(":");
  if (kind === "heat") {
    const map = seen.maps[title]?.[place];
    if (!map) return false;
    map.forEach((value, i) => put(i, HEAT[Math.round(value)], 255));
  } else if (kind === "error") {
    const truth = seen.masks[reference(seen.image)], labels = labelsOf(seen, what.slice(6), threshold);
    if (!truth || !labels) return false;
    labels.forEach((value, i) => {
      const error = errorOf(value, truth[i]);
      put(i, error ? ERRORS[error][1] : [0, 0, 0], error ? 255 : 130);
    });
  } else if (what) {
    const labels = labelsOf(seen, what, threshold);
    if (!labels) return false;
    // The background darkens the photograph less than objects are coloured.
    labels.forEach((value, i) => put(i, COLOURS.get(value) ?? [128, 128, 128], value === run.background ? 153 : 255));
  }
  context.putImageData(pixels, 0, 0);
  return true;
}

// Lines between pixels of different classes, on a canvas so many times finer than the mask.
function outline(canvas, labels, width, height, colour, fine) {
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  const thick = Math.max(2, Math.round(fine * 0.55));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = labels[y * width + x];
      if (x + 1 < width && labels[y * width + x + 1] !== value) context.fillRect(fine * (x + 1) - thick / 2, fine * y, thick, fine);
      if (y + 1 < height && labels[(y + 1) * width + x] !== value) context.fillRect(fine * x, fine * (y + 1) - thick / 2, fine, thick);
    }
  }
}

// An element with properties and children; "on…" are listeners, and names with a dash are attributes.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}
const swatchOf = (value) => {
  const made = element("i", { className: "swatch" });
  made.style.background = classColour(value);
  return made;
};
