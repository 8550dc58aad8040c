// The gallery of all images: which are shown, in which order, page by page.
const gallery = document.getElementById("images");
const shots = gallery.querySelector(".shots"), turn = gallery.querySelector(".turn");
const [previous, following] = turn.querySelectorAll("button");
const AT_ONCE = 60;
const shown = (image, value) => image.shown.includes(value);
// What an image is said to have: its tags, or where nobody gave any, its ground truth.
const said = (image) => image.tags ?? image.true;

const DISAGREEMENTS = {
  any: ["all", () => true],
  either: ["any disagreement", (image, value) => shown(image, value) !== said(image).includes(value)],
  extra: ["predicted, not tagged", (image, value) => shown(image, value) && !said(image).includes(value)],
  missing: ["tagged, not predicted", (image, value) => !shown(image, value) && said(image).includes(value)],
};
const by = (key, sign) => (a, b) => (a[key] === null) - (b[key] === null) || sign * (a[key] - b[key]) || a.place - b.place;
const ORDERS = {
  worst: ["lowest mIoU first", "miou", by("miou", 1)],
  best: ["highest mIoU first", "miou", by("miou", -1)],
  wrong: ["most wrong pixels first", "wrong", by("wrong", -1)],
  unsure: ["least confident first", "confidence", by("confidence", 1)],
  sure: ["most confident first", "confidence", by("confidence", -1)],
  name: ["by name", "place", (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })],
};

const controls = {};
function choice(key, label, options) {
  if (options.length < 2) return "";
  controls[key] = element("select", { onchange: list }, ...options.map(([value, text]) => element("option", { value }, text)));
  return element("label", {}, label, controls[key]);
}
const counted = (value, has) => {
  const count = run.images.filter((image) => has(image)?.includes(value)).length;
  return count ? [[String(value), `${className(value)} (${count})`]] : [];
};
const foreground = run.classes.map((_, value) => value).filter((value) => value !== run.background);
const known = (key) => run.images.some((image) => image[key] !== null);
const orders = Object.entries(ORDERS).filter(([, [, key]]) => known(key)).map(([value, [text]]) => [value, text]);
const layers = [["judged", "the mask"], ...run.masks.map((mask) => [mask, mask]), ...run.maps.map((title) => [`map:${title}`, `${title} at the threshold`])];
if (run.images.some(reference)) layers.push(["error", "where it is wrong"]);
layers.push(["", "nothing"]);

const filters = gallery.querySelector(".filters");
controls.words = element("input", { type: "search", placeholder: "part of a name", oninput: list });
filters.append(
  choice("split", "Split", [["", "all"], ...run.splits.map((split) => [split, split])].slice(run.splits.length < 2 ? 2 : 0)),
  choice("tag", "Tag", [["", "any"], ...foreground.flatMap((value) => counted(value, (image) => image.tags))]),
  choice("class", "Class in the mask", [["", "any"], ...foreground.flatMap((value) => counted(value, (image) => image.shown))]),
  known("tags") || known("true") ? choice("disagree", known("tags") ? "Tags and mask" : "Truth and mask", Object.entries(DISAGREEMENTS).map(([value, [text]]) => [value, known("tags") ? text : text.replace("tagged", "in the truth")])) : "",
  choice("order", "Order", orders),
  choice("what", "Over the photograph", layers),
  element("label", {}, "Name", controls.words),
  element("button", { type: "reset" }, "Show all"),
);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(list));
filters.hidden = false;

let listed = [];
const chosen = (key) => controls[key]?.value ?? "";
function passes(image) {
  const tag = chosen("tag"), value = chosen("class"), words = chosen("words").trim().toLowerCase();
  const disagree = chosen("disagree"), differs = DISAGREEMENTS[disagree]?.[1];
  if (chosen("split") && !image.splits.includes(chosen("split"))) return false;
  if (tag && !image.tags?.includes(Number(tag))) return false;
  if (words && !image.name.toLowerCase().includes(words)) return false;
  if (!disagree || disagree === "any") return !value || shown(image, Number(value));
  // With a class, the disagreement is about that class.
  return said(image) !== null && (value ? [Number(value)] : foreground).some((one) => differs(image, one));
}
function list() {
  listed = run.images.filter(passes).sort(ORDERS[chosen("order") || orders[0][0]][2]);
  gallery.querySelector(".found").textContent = `${listed.length} of ${run.images.length} images`;
  turnTo(0);
}

let first = 0; // the place in the list of the first image on this page
function turnTo(start) {
  first = start;
  const end = Math.min(listed.length, start + AT_ONCE);
  shots.replaceChildren(...listed.slice(start, end).map(shot));
  shots.querySelector("button")?.setAttribute("tabindex", 0);
  turn.hidden = listed.length <= AT_ONCE;
  turn.querySelector("span").textContent = `${start + 1} to ${end} of ${listed.length}`;
  previous.disabled = !start;
  following.disabled = end === listed.length;
}
function leaf(by) {
  turnTo(first + by * AT_ONCE);
  gallery.querySelector(".found").scrollIntoView();
}
previous.addEventListener("click", () => leaf(-1));
following.addEventListener("click", () => leaf(1));
const seeing = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seeing.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });

function shot(image) {
  const figure = image.miou !== null ? `${percent(image.miou)} mIoU` : image.confidence !== null ? `${percent(image.confidence)} confidence` : "";
  const words = classWords(image);
  const button = element("button", {
    type: "button", tabIndex: -1, onclick: () => compare(image),
    "aria-label": `${image.name}${figure && `, ${figure}`}, ${words.map(([, text]) => text).join(", ") || "no class"}. Compare`,
  }, element("img", { alt: "" }), element("canvas"));
  button.image = image;
  seeing.observe(button);
  return element("li", {}, button, element("p", { className: "shot-score" }, figure || image.splits[0]),
    element("p", { className: "name" }, image.name),
    element("ul", { className: "tags" }, ...words.map(([value, text]) => element("li", { className: text === className(value) ? "" : "odd" }, swatchOf(value), text))));
}
// The classes of an image, and on which of them its mask and its tags disagree.
function classWords(image) {
  const tags = said(image);
  if (!tags) return image.shown.map((value) => [value, className(value)]);
  return [
    ...tags.filter((value) => value !== run.background).map((value) => [value, shown(image, value) ? className(value) : `no ${className(value)}`]),
    ...image.shown.filter((value) => !tags.includes(value)).map((value) => [value, `also ${className(value)}`]),
  ];
}
async function draw(button) {
  try {
    const seen = await pictures(button.image), what = chosen("what") || (controls.what ? "" : "judged");
    const layer = { judged: seen.image.judged, error: `error:${seen.image.judged}` }[what] ?? what;
    if (seen.photo) button.querySelector("img").src = seen.photo;
    else button.classList.add("bare");
    paint(button.querySelector("canvas"), seen, layer, run.threshold ?? 0.3);
  } catch (error) {
    button.textContent = error.message;
  }
}

shots.addEventListener("keydown", (event) => {
  const buttons = [...shots.querySelectorAll("button")], at = buttons.indexOf(event.target.closest("button"));
  if (at < 0) return;
  const top = buttons[0].offsetTop, wide = buttons.findIndex((button) => button.offsetTop > top);
  const columns = wide < 0 ? buttons.length : wide;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: buttons.length - 1 - at }[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  focusShot(Math.max(0, Math.min(listed.length - 1, first + at + step)));
});
// The focus to a place in the list, on whatever page it is.
function focusShot(place) {
  if (place < first || place >= first + AT_ONCE) turnTo(place - place % AT_ONCE);
  for (const button of shots.querySelectorAll('button[tabindex="0"]')) button.tabIndex = -1;
  const button = shots.children[place - first]?.querySelector("button");
  if (!button) return;
  button.tabIndex = 0;
  button.focus();
}

// The names of the examples above lead to the same images here.
const addressOf = (image) => `#images/${encodeURIComponent(image.name)}`;
const named = new Map(run.images.map((image) => [image.name, image]));
for (const name of document.querySelectorAll(".row .name")) {
  const image = named.get(name.textContent);
  if (image) name.replaceChildren(element("a", { href: addressOf(image), title: "Compare all that there is of it" }, image.name));
}
