// The page of `maskwright review`: asks the server for masks, shows them, and sends back what a person decides.
import { Painting, Regions, fromRuns, toRuns } from './paint.js';

const $ = (id) => document.getElementById(id);
const TOOLS = ['brush', 'eraser', 'region'];
const SAVE_AFTER = 1200; // milliseconds after the last stroke
const GREY = [140, 140, 140]; // of pixels that are ignored
let set; // the classes, and the images with their states
let current = null; // the image that is shown
let order = []; // class values in the order of their keys
let tool = { kind: 'brush', value: 1 };
let timer = 0;
let saving = Promise.resolve();

async function ask(path, given) {
  const sent = given && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(given) };
  const answer = await fetch(path, sent || {});
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

function tell(text, newer = false) {
  $('notice').hidden = !text;
  $('notice-text').textContent = text || '';
  $('reload').hidden = !newer;
}

const erased = () => (set.background === null ? set.ignore : set.background);
const shownClasses = () => new Set([...(current.tags || []), ...current.added].filter((name) => !current.removed.has(name)));

// Colours as training takes the mask: classes that the image does not show are ignored.
function colours() {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  set.classes.forEach((name, value) => {
    const colour = current.removed.has(name) ? GREY : set.colours[value];
    bytes.set(value === set.background ? [0, 0, 0, 0] : [...colour, 255], 4 * value);
  });
  bytes.set([...GREY, 255], 4 * set.ignore);
  return table;
}

function recolour() {
  current.painting.colours = colours();
  current.painting.draw();
}

async function show(number, force = false) {
  if (number < 0 || number >= set.images.length) return;
  if (!force) await save();
  const found = await ask(`shown/${number}`).catch((error) => tell(error.message));
  if (!found) return;
  tell('');
  const pixels = found.width * found.height;
  current = {
    ...found, number, changed: false, pseudo: fromRuns(found.pseudo, pixels), isPainted: found.painted !== null,
    removed: new Set(found.removed), added: new Set(found.added),
  };
  const values = current.isPainted ? fromRuns(found.painted, pixels) : current.pseudo.slice();
  $('image').src = `image/${number}`;
  $('image').alt = found.name;
  current.painting = new Painting($('mask'), values, found.width, found.height, colours());
  order = [...set.classes.keys()].filter((value) => value !== set.background);
  const tagged = shownClasses();
  order.sort((one, other) => tagged.has(set.classes[other]) - tagged.has(set.classes[one]) || one - other);
  tool = { kind: tool.kind === 'eraser' ? 'brush' : tool.kind, value: order[0] ?? 0 };
  choose(tool.kind);
  fit();
  location.replace(`#${number + 1}`);
  renew();
}

function fit() {
  if (!current) return;
  const room = $('scroll');
  room.style.height = '';
  const tallest = parseFloat(getComputedStyle(room).maxHeight) || innerHeight;
  const scale = Math.min(room.clientWidth / current.width, tallest / current.height) * ($('zoom').value / 100);
  current.scale = scale;
  $('sheet').style.width = `${current.width * scale}px`;
  $('sheet').style.height = `${current.height * scale}px`;
}

function renew() {
  const image = set.images[current.number];
  image.state = current.state;
  const count = (state) => set.images.filter((one) => one.state === state).length;
  $('progress').textContent = `${count('accepted')} accepted, ${count('rejected')} rejected, ${count('open')} undecided`;
  $('place').value = current.number + 1;
  $('place').max = set.images.length;
  $('count').textContent = `of ${set.images.length}`;
  $('name').textContent = `${current.name} · ${current.width} × ${current.height} · doubt ${current.doubt.toFixed(2)}`;
  for (const [id, state] of [['accept', 'accepted'], ['reject', 'rejected'], ['reopen', 'open']]) {
    $(id).setAttribute('aria-pressed', current.state === state);
  }
  for (const kind of TOOLS) $(kind).setAttribute('aria-pressed', tool.kind === kind);
  const saved = current.version ? `saved, version ${current.version}, ${current.who}, ${current.when.slice(0, 16).replace('T', ' ')} UTC` : 'not reviewed yet';
  $('status').textContent = current.changed ? 'not saved yet' : saved;
  listClasses();
}

function listClasses() {
  const tagged = shownClasses();
  const values = [...order, ...(set.background === null ? [] : [set.background]), set.ignore];
  $('classes').replaceChildren(...values.map((value) => {
    const row = document.createElement('li');
    const name = value === set.ignore ? 'unknown (ignored)' : set.classes[value];
    const isClass = value !== set.ignore && value !== set.background;
    const tick = document.createElement(isClass ? 'input' : 'span');
    if (isClass) {
      tick.type = 'checkbox';
      tick.checked = tagged.has(name);
      tick.setAttribute('aria-label', `the image shows ${name}`);
      tick.addEventListener('change', () => setTag(name, tick.checked));
    } else tick.className = 'none';
    const choose = document.createElement('button');
    choose.setAttribute('aria-pressed', tool.kind !== 'eraser' && tool.value === value);
    choose.addEventListener('click', () => chooseClass(value));
    const swatch = document.createElement('span');
    swatch.className = 'swatch';
    swatch.style.backgroundColor = `rgb(${value === set.ignore ? GREY : set.colours[value]})`;
    choose.append(swatch, name);
    const place = order.indexOf(value);
    const key = value === set.background ? '0' : place >= 0 && place < 9 ? `${place + 1}` : '';
    if (key) choose.append(Object.assign(document.createElement('kbd'), { textContent: key }));
    row.append(tick, choose);
    return row;
  }));
}

function chooseClass(value) {
  tool = { kind: tool.kind === 'eraser' ? 'brush' : tool.kind, value };
  renew();
}

// Regions are asked for when they are first used on an image.
async function choose(kind) {
  const image = current;
  tool.kind = kind;
  $('ring').hidden = true;
  $('edges').hidden = true;
  renew();
  if (kind !== 'region') return;
  image.regions ??= ask(`regions/${image.number}`).then((found) => new Regions(found));
  const regions = await image.regions.catch((error) => { image.regions = undefined; tell(error.message); });
  if (!regions || image !== current || tool.kind !== 'region') return;
  image.ready = regions;
  regions.drawEdges($('edges'));
  $('edges').hidden = false;
}

// One stroke of the tool from a point to the next.
function stroke(from, to, value) {
  const { painting, ready } = current;
  if (tool.kind !== 'region') return painting.line(from, to, radius(), value);
  const region = ready ? ready.at(painting, to) : -1;
  if (region >= 0) ready.fill(painting, region, value);
}

function beside() {
  return { removed: new Set(current.removed), added: new Set(current.added), isPainted: current.isPainted };
}

function setTag(name, isShown) {
  current.painting.remember(beside());
  const wasTagged = (current.tags || []).includes(name);
  current.removed.delete(name);
  current.added.delete(name);
  if (isShown && !wasTagged) current.added.add(name);
  if (!isShown && wasTagged) current.removed.add(name);
  if (!isShown && !wasTagged && current.painting.values.includes(set.classes.indexOf(name))) current.removed.add(name);
  recolour();
  changed();
}

function undo() {
  const before = current.painting.undo();
  if (!before) return;
  Object.assign(current, before);
  recolour();
  changed();
}

function startOver() {
  current.painting.remember(beside());
  current.painting.values = current.pseudo.slice();
  Object.assign(current, { removed: new Set(), added: new Set(), isPainted: false });
  recolour();
  changed();
}

function changed() {
  current.changed = true;
  renew();
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_AFTER);
}

// Saves what is shown, one after the other; a newer version of another window is never written over.
function save(state) {
  clearTimeout(timer);
  const image = current;
  saving = saving.then(async () => {
    if (!image || (!image.changed && (state === undefined || state === image.state))) return true;
    image.changed = false;
    const painted = image.isPainted ? toRuns(image.painting.values) : null;
    const [removed, added] = [[...image.removed], [...image.added]];
    try {
      const kept = await ask(`save/${image.number}`, { version: image.version, state: state ?? image.state, removed, added, painted });
      Object.assign(image, { version: kept.version, state: kept.state, who: kept.who, when: kept.when });
      set.images[image.number].state = kept.state;
      if (image === current) renew();
      return true;
    } catch (error) {
      image.changed = true;
      const newer = error.status === 409;
      tell(newer ? `${error.message}. Yours is not saved.` : `Not saved: ${error.message}. Is maskwright review still running?`, newer);
      if (image === current) renew();
      return false;
    }
  });
  return saving;
}

async function decide(state) {
  if (await save(state) && state !== 'open') nextOpen();
}

async function go(step) {
  if (await save()) await show(current.number + step, true);
}

async function nextOpen() {
  if (!(await save())) return;
  const many = set.images.length;
  for (let step = 1; step <= many; step++) {
    const number = (current.number + step) % many;
    if (set.images[number].state === 'open' && number !== current.number) return show(number, true);
  }
  tell('Every mask is decided. The next maskwright run of the same recipe trains on them.');
}

function pointOf(event) {
  const box = $('mask').getBoundingClientRect();
  return { x: (event.clientX - box.left) / current.scale, y: (event.clientY - box.top) / current.scale };
}

function ringAt(event) {
  const point = pointOf(event);
  const ring = $('ring');
  ring.hidden = event.pointerType === 'touch' || tool.kind === 'region';
  ring.style.width = ring.style.height = `${2 * radius() * current.scale}px`;
  ring.style.left = `${point.x * current.scale}px`;
  ring.style.top = `${point.y * current.scale}px`;
}

// The slider is in thousandths of the longer side, so that it means the same in images of all sizes.
const radius = () => Math.max(0.5, ($('size').value / 1000) * Math.max(current.width, current.height));

function listen() {
  const canvas = $('mask');
  let last = null;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button || !current || (tool.kind === 'region' && !current.ready)) return;
    canvas.setPointerCapture(event.pointerId);
    current.painting.remember(beside());
    const value = tool.kind === 'eraser' ? erased() : tool.value;
    const name = set.classes[value];
    const isClass = name !== undefined && value !== set.background;
    if (isClass && !shownClasses().has(name)) { // what is painted is shown
      current.removed.delete(name);
      if (!(current.tags || []).includes(name)) current.added.add(name);
      recolour();
    }
    current.isPainted = true;
    last = { ...pointOf(event), value };
    stroke(last, last, value);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!current) return;
    ringAt(event);
    if (!last) return;
    for (const one of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const point = pointOf(one);
      stroke(last, point, last.value);
      last = { ...point, value: last.value };
    }
  });
  const lift = () => {
    if (last) changed();
    last = null;
  };
  canvas.addEventListener('pointerup', lift);
  canvas.addEventListener('pointercancel', lift);
  canvas.addEventListener('pointerleave', () => { $('ring').hidden = true; });
  const acts = {
    previous: () => go(-1), next: () => go(1), 'next-open': nextOpen, accept: () => decide('accepted'), reject: () => decide('rejected'),
    reopen: () => decide('open'), undo, reset: startOver, reload: () => show(current.number, true),
    brush: () => choose('brush'), eraser: () => choose('eraser'), region: () => choose('region'),
  };
  for (const [id, act] of Object.entries(acts)) $(id).addEventListener('click', act);
  $('place').addEventListener('change', async () => { if (await save()) show($('place').value - 1, true); });
  $('opacity').addEventListener('input', opacity);
  $('zoom').addEventListener('input', fit);
  addEventListener('resize', fit);
  addEventListener('beforeunload', (event) => { if (current?.changed) { save(); event.preventDefault(); } });
  const slide = (id, by) => { $(id).value = Number($(id).value) + by; $(id).dispatchEvent(new Event('input')); };
  const keys = {
    a: acts.accept, r: acts.reject, o: acts.reopen, n: acts.next, p: acts.previous, u: nextOpen, b: acts.brush, e: acts.eraser, g: acts.region, z: undo,
    ArrowRight: acts.next, ArrowLeft: acts.previous, '[': () => slide('size', -3), ']': () => slide('size', 3), '+': () => slide('zoom', 50),
    '=': () => slide('zoom', 50), '-': () => slide('zoom', -50), h: () => { $('mask').classList.toggle('off'); opacity(); },
  };
  addEventListener('keydown', (event) => {
    const isUndo = (event.ctrlKey || event.metaKey) && event.key === 'z';
    if (!current || event.target.matches('input[type=number]') || (!isUndo && (event.ctrlKey || event.metaKey || event.altKey))) return;
    if (event.target.matches('input[type=range]') && event.key.startsWith('Arrow')) return;
    const place = /^[0-9]$/.test(event.key) ? Number(event.key) : -1;
    if (place === 0 && set.background !== null) chooseClass(set.background);
    else if (place > 0 && order[place - 1] !== undefined) chooseClass(order[place - 1]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
}

function opacity() {
  $('mask').style.opacity = $('mask').classList.contains('off') ? 0 : $('opacity').value / 100;
}

set = await ask('overview');
document.title = $('title').textContent = `Review of ${set.title}`;
listen();
opacity();
const asked = Number(location.hash.slice(1)) - 1;
await show(asked >= 0 && asked < set.images.length ? asked : 0, true);
