// Run-lengths as COCO writes them, and pictures of them: image, masks, boxes and points on a canvas.
// A mask is a Uint8Array of width * height, row by row; run-lengths go down the columns.

function readRuns(text) {
  // Digits of five bits, the lowest first: code - 48, plus 32 where another follows; bit 16 of the last
  // one is the sign. From the fourth number on it is what a run has more than the last one but one.
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let place = 0;
    let digit;
    do {
      digit = text.charCodeAt(at++) - 48;
      value |= (digit & 31) << place;
      place += 5;
    } while (digit & 32);
    if (digit & 16 && place < 32) value |= -1 << place;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

function readMask(text, width, height) {
  const mask = new Uint8Array(width * height);
  let at = 0;
  readRuns(text).forEach((length, number) => {
    if (number % 2) {
      for (let pixel = at; pixel < at + length; pixel++) {
        mask[(pixel % height) * width + Math.floor(pixel / height)] = 1;
      }
    }
    at += length;
  });
  return mask;
}

// Paint a mask over a canvas: filled, or its outline alone, dark edged so that it shows on any ground.
function paintMask(context, mask, width, height, colour, fill) {
  const { width: across, height: down } = context.canvas;
  const columns = new Int32Array(across);
  for (let x = 0; x < across; x++) columns[x] = Math.min(width - 1, Math.floor(((x + 0.5) * width) / across));
  const small = new Uint8Array(across * down);
  for (let y = 0; y < down; y++) {
    const row = Math.min(height - 1, Math.floor(((y + 0.5) * height) / down)) * width;
    for (let x = 0; x < across; x++) small[y * across + x] = mask[row + columns[x]];
  }
  const layer = new ImageData(across, down);
  const pixels = layer.data;
  const line = Math.max(1, Math.round(across / 240));
  for (let y = 0; y < down; y++) {
    for (let x = 0; x < across; x++) {
      const at = y * across + x;
      const inside = small[at];
      let edge = false;
      for (let by = 1; by <= line && !edge; by++) {
        edge =
          (x < by ? 0 : small[at - by]) !== inside ||
          (x + by >= across ? 0 : small[at + by]) !== inside ||
          (y < by ? 0 : small[at - by * across]) !== inside ||
          (y + by >= down ? 0 : small[at + by * across]) !== inside;
      }
      const to = 4 * at;
      if (inside) {
        [pixels[to], pixels[to + 1], pixels[to + 2]] = colour;
        pixels[to + 3] = edge ? 255 : Math.round(255 * fill);
      } else if (edge) {
        [pixels[to], pixels[to + 1], pixels[to + 2]] = [16, 20, 28];
        pixels[to + 3] = 150;
      }
    }
  }
  const over = document.createElement("canvas");
  over.width = across;
  over.height = down;
  over.getContext("2d").putImageData(layer, 0, 0);
  context.drawImage(over, 0, 0);
}

const rgb = (colour) => "rgb(" + colour.join(",") + ")";

function paintBox(context, box, scale, colour, line) {
  const [x1, y1, x2, y2] = box.map((value) => value * scale);
  for (const [tone, width] of [["rgb(16,20,28)", line + 2], [colour, line]]) {
    context.strokeStyle = tone;
    context.lineWidth = width;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
}

function paintPoint(context, [x, y], scale, colour, radius, plus) {
  const [cx, cy] = [x * scale, y * scale];
  for (const [tone, size] of [["rgb(16,20,28)", radius * 1.45], ["#fff", radius * 1.28], [colour, radius]]) {
    context.fillStyle = tone;
    context.beginPath();
    context.arc(cx, cy, size, 0, 2 * Math.PI);
    context.fill();
  }
  context.fillStyle = "rgb(16,20,28)";
  const [arm, half] = [radius * 0.58, Math.max(0.7, radius * 0.16)];
  context.fillRect(cx - arm, cy - half, 2 * arm, 2 * half);
  if (plus) context.fillRect(cx - half, cy - arm, 2 * half, 2 * arm);
}

// Draw one picture. `scene` holds what a group shares: width, height, image (or null), target and boxes;
// `answer` is a member's mask and prompts, or null for the picture of the target alone.
function paintPicture(canvas, scene, answer, layers) {
  const ratio = window.devicePixelRatio || 1;
  const across = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const down = Math.max(1, Math.round((across * scene.height) / scene.width));
  canvas.width = across;
  canvas.height = down;
  const context = canvas.getContext("2d");
  const scale = across / scene.width;
  const line = Math.max(1.5, 1.6 * ratio);
  context.fillStyle = "rgb(120,126,134)";
  context.fillRect(0, 0, across, down);
  if (scene.image && layers.image) context.drawImage(scene.image, 0, 0, across, down);
  if (answer && answer.mask && layers.predicted) {
    paintMask(context, answer.mask, scene.width, scene.height, COLOURS.predicted, 0.4);
  }
  if (layers.true || !answer) {
    if (scene.target) {
      paintMask(context, scene.target, scene.width, scene.height, COLOURS.true, answer ? 0 : 0.34);
    }
    for (const box of scene.boxes) paintBox(context, box, scale, rgb(COLOURS.true), line);
  }
  if (!answer || !layers.prompts) return;
  for (const one of answer.prompts) {
    if (one.box) paintBox(context, one.box, scale, rgb(COLOURS.box), line);
    for (const point of one.positive_points) {
      paintPoint(context, point, scale, rgb(COLOURS.positive), 3.6 * ratio, true);
    }
    for (const point of one.negative_points) {
      paintPoint(context, point, scale, rgb(COLOURS.negative), 3.6 * ratio, false);
    }
  }
}
