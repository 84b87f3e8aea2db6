// What the model gets to see: frames of 32 x 32 grey pixels, white on black, as in its training: a digit of 11 to 20 pixels for
// 4 to 10 steps over a little noise, or a camera's picture made like that.

export const SIZE = 32;
const CELLS = 8; // a digit is 8 x 8 pixels before it is drawn into the frame
const FINE = 8; // dots of the drawing in each of these
const STROKE = 1.5; // cells across a line: of those tried, the one with which drawings were recognised best
const SHOWN = 10, GAP = 6; // steps for which a digit is shown, and without one after it
const BRIGHTNESS = 0.92, NOISE = 0.03;
const SMALLEST = 15.5, LARGEST = 16.5; // pixels: those at which drawings were recognised best

// A standard normal number, by Box and Muller.
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

const canvasOf = (size) => Object.assign(document.createElement("canvas"), { width: size, height: size });

// Lines (each a list of [x, y] in 0..1) -> the digit's cells, its centre and size in pixels of the frame. However small and thin
// it is drawn, it fills its cells, as those that the model was trained on do.
export function digitOf(lines) {
  const points = lines.flat();
  const [left, right] = [0, 1].map((far) => Math[far ? "max" : "min"](...points.map(([x]) => x)));
  const [top, bottom] = [0, 1].map((far) => Math[far ? "max" : "min"](...points.map(([, y]) => y)));
  const extent = Math.max(right - left, bottom - top, 0.02);
  const scale = ((CELLS - STROKE) * FINE) / extent;
  const pen = canvasOf(CELLS * FINE).getContext("2d", { willReadFrequently: true });
  Object.assign(pen, { lineWidth: STROKE * FINE, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  const place = ([x, y]) => [
    (x - (left + right) / 2) * scale + (CELLS * FINE) / 2,
    (y - (top + bottom) / 2) * scale + (CELLS * FINE) / 2,
  ];
  for (const line of lines) {
    pen.beginPath();
    pen.moveTo(...place(line[0]));
    for (const point of line) pen.lineTo(...place(point));
    pen.stroke();
  }
  const dots = pen.getImageData(0, 0, CELLS * FINE, CELLS * FINE).data;
  const cells = new Float32Array(CELLS * CELLS);
  for (let dot = 0; dot < dots.length / 4; dot++) {
    const [x, y] = [dot % (CELLS * FINE), Math.floor(dot / (CELLS * FINE))];
    cells[Math.floor(y / FINE) * CELLS + Math.floor(x / FINE)] += dots[4 * dot + 3] / 255 / FINE ** 2;
  }
  const size = Math.min(Math.max(extent * SIZE, SMALLEST), LARGEST);
  const within = (middle) => Math.min(Math.max(middle * SIZE, size / 2), SIZE - size / 2);
  return { cells, size, x: within((left + right) / 2), y: within((top + bottom) / 2) };
}

export function digitOfSample(letters) {
  const cells = Float32Array.from(letters, (letter) => (letter.charCodeAt(0) - 97) / 16);
  return { cells, size: 16, x: 16 + 2 * normal(), y: 16 + 2 * normal() };
}

// A digit at one of its steps: it drifts, grows and turns a little, as those of the training do, so that a drawing that is unlike
// them is recognised from one view or another. The first view counts most, for at once the model begins to write it down: a slight
// turn to the right is the one in which sevens are not taken for ones.
function moved({ cells, size, x, y, drift }, step) {
  const way = step / (SHOWN - 1) - 0.5;
  const [right, down] = drift.map((pixels) => pixels * way);
  return { cells, size: size * (1 + 0.08 * way), x: x + right, y: y + down, turn: 0.07 + 0.03 * Math.sin(6 * way) };
}

// A digit's cells into a frame, between cells by their distance.
function drawInto(frame, { cells, size, x, y, turn }) {
  const cell = (i, j) => (i < 0 || j < 0 || i >= CELLS || j >= CELLS ? 0 : cells[i * CELLS + j]);
  const cos = Math.cos(turn) / size, sin = Math.sin(turn) / size;
  for (let row = 0; row < SIZE; row++) {
    for (let column = 0; column < SIZE; column++) {
      const [right, below] = [column + 0.5 - x, row + 0.5 - y];
      const u = (right * cos + below * sin + 0.5) * CELLS - 0.5, v = (below * cos - right * sin + 0.5) * CELLS - 0.5;
      const [i, j] = [Math.floor(v), Math.floor(u)], [down, over] = [v - i, u - j];
      const upper = cell(i, j) * (1 - over) + cell(i, j + 1) * over;
      const lower = cell(i + 1, j) * (1 - over) + cell(i + 1, j + 1) * over;
      const digit = BRIGHTNESS * (upper * (1 - down) + lower * down), at = row * SIZE + column;
      frame[at] = Math.max(frame[at], digit + 0.3 * frame[at]);
    }
  }
}

export class Eyes {
  constructor() {
    this._queue = [];
    this._left = 0;
    this.camera = null;
    this.dark = true; // the camera looks at dark lines on something light
  }

  show(digit, done = () => {}) {
    this._queue.push({ digit: { ...digit, drift: [2 * normal(), 2 * normal()] }, done });
  }

  get busy() {
    return this._queue.length > 0 || this._left !== 0 || this.camera !== null;
  }

  get showing() {
    return this._left > 0;
  }

  // The next step's frame.
  frame() {
    const frame = Float32Array.from({ length: SIZE * SIZE }, () => NOISE * normal());
    if (this.camera) this._look(frame);
    if (this._left < 0) this._left++;
    else if (this._queue.length && !this._left) this._left = SHOWN;
    if (this._left > 0) {
      drawInto(frame, moved(this._queue[0].digit, SHOWN - this._left));
      if (--this._left === 0) {
        this._left = -GAP;
        this._queue.shift().done();
      }
    }
    return frame.map((value) => Math.min(Math.max(value, 0), 1));
  }

  // Throws what getUserMedia throws.
  async open() {
    if (!navigator.mediaDevices) throw new DOMException("insecure", "NotSupportedError");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 320, height: 320 } });
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    await video.play();
    this.camera = { stream, video, pen: canvasOf(SIZE).getContext("2d", { willReadFrequently: true }) };
    return stream;
  }

  close() {
    this.camera?.stream.getTracks().forEach((track) => track.stop());
    this.camera = null;
  }

  // The middle of the camera's picture, with what is usual in it black and what stands out white.
  _look(frame) {
    const { video, pen } = this.camera, side = Math.min(video.videoWidth, video.videoHeight);
    if (!side) return;
    pen.drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, SIZE, SIZE);
    const { data } = pen.getImageData(0, 0, SIZE, SIZE);
    const grey = Float32Array.from({ length: SIZE * SIZE }, (_, at) => {
      const light = (0.3 * data[4 * at] + 0.59 * data[4 * at + 1] + 0.11 * data[4 * at + 2]) / 255;
      return this.dark ? 1 - light : light;
    });
    const sorted = grey.slice().sort();
    const usual = sorted[Math.floor(sorted.length * 0.6)], most = sorted[Math.floor(sorted.length * 0.98)];
    const range = Math.max(most - usual, 0.2);
    grey.forEach((value, at) => (frame[at] += Math.min(Math.max((value - usual) / range - 0.1, 0), 1)));
  }
}
