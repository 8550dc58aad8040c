// A mask on a canvas: values, colours, strokes and how to take them back. Nothing here knows of the server.

const REMEMBERED = 96e6; // bytes of masks kept for undo

// A mask row by row as value, count, value, count, ...
export function toRuns(values) {
  const runs = [];
  for (let begin = 0, i = 1; i <= values.length; i++) {
    if (i === values.length || values[i] !== values[begin]) {
      runs.push(values[begin], i - begin);
      begin = i;
    }
  }
  return runs;
}

export function fromRuns(runs, pixels, kind = Uint8Array) {
  const values = new kind(pixels);
  for (let i = 0, at = 0; i < runs.length; i += 2) {
    values.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return values;
}

// Regions of one colour: `runs` of region numbers, of an image that may be smaller than the one that is painted.
export class Regions {
  constructor({ height, width, runs }) {
    Object.assign(this, { height, width, numbers: fromRuns(runs, height * width, Int32Array) });
  }

  at(painting, { x, y }) {
    const [column, row] = [Math.floor((x * this.width) / painting.width), Math.floor((y * this.height) / painting.height)];
    const isInside = column >= 0 && row >= 0 && column < this.width && row < this.height;
    return isInside ? this.numbers[row * this.width + column] : -1;
  }

  fill(painting, region, value) {
    for (let y = 0; y < painting.height; y++) {
      const row = Math.floor(((y + 0.5) * this.height) / painting.height) * this.width;
      for (let x = 0; x < painting.width; x++) {
        const column = Math.floor(((x + 0.5) * this.width) / painting.width);
        if (this.numbers[row + column] === region) painting.values[y * painting.width + x] = value;
      }
    }
    painting.draw();
  }

  drawEdges(canvas) {
    Object.assign(canvas, { width: this.width, height: this.height });
    const context = canvas.getContext('2d');
    const pixels = context.createImageData(this.width, this.height);
    const words = new Uint32Array(pixels.data.buffer);
    const { numbers, width } = this;
    for (let i = width; i < numbers.length; i++) {
      if (numbers[i] !== numbers[i - width] || (i % width && numbers[i] !== numbers[i - 1])) words[i] = 0xffffffff;
    }
    context.putImageData(pixels, 0, 0);
  }
}

export class Painting {
  // colours: 256 RGBA values of one number each, as an ImageData holds them.
  constructor(canvas, values, width, height, colours) {
    Object.assign(this, { canvas, values, width, height, colours, before: [] });
    canvas.width = width;
    canvas.height = height;
    this.context = canvas.getContext('2d');
    this.pixels = this.context.createImageData(width, height);
    this.words = new Uint32Array(this.pixels.data.buffer);
    this.draw();
  }

  draw(left = 0, top = 0, right = this.width, bottom = this.height) {
    for (let y = top; y < bottom; y++) {
      for (let i = y * this.width + left; i < y * this.width + right; i++) this.words[i] = this.colours[this.values[i]];
    }
    if (right > left && bottom > top) {
      this.context.putImageData(this.pixels, 0, 0, left, top, right - left, bottom - top);
    }
  }

  // To be called before a change; `beside` is kept with it.
  remember(beside) {
    this.before.push({ values: this.values.slice(), beside });
    while (this.before.length > Math.max(3, REMEMBERED / this.values.length)) this.before.shift();
  }

  // Takes the last change back; gives what was kept beside it, or null.
  undo() {
    const last = this.before.pop();
    if (!last) return null;
    this.values = last.values;
    this.draw();
    return last.beside;
  }

  // Paints a line of discs from one point to another.
  line(from, to, radius, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 3)));
    for (let step = 0; step <= steps; step++) {
      const share = step / steps;
      this.disc(from.x + (to.x - from.x) * share, from.y + (to.y - from.y) * share, radius, value);
    }
  }

  disc(x, y, radius, value) {
    const [left, right] = [Math.max(0, Math.floor(x - radius)), Math.min(this.width, Math.ceil(x + radius) + 1)];
    const [top, bottom] = [Math.max(0, Math.floor(y - radius)), Math.min(this.height, Math.ceil(y + radius) + 1)];
    const reach = Math.max(radius, 0.72) ** 2; // never less than the pixel under the pointer
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        if ((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 <= reach) this.values[row * this.width + column] = value;
      }
    }
    this.draw(left, top, right, bottom);
  }
}
