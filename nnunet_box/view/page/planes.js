// Label maps on top of slices: planes out of a volume, fills and contours onto a canvas.
// A grid is {dims, step, start}: voxels along right, anterior, superior; what one step along each adds to an index of the
// stored voxels; the index of the first.

const SHOWN_AXES = [[1, 2], [0, 2], [0, 1]];

// The plane at `index` across `axis` (0 sagittal, 1 coronal, 2 axial): columns along its first axis, rows along its second.
export function planeOf(voxels, grid, axis, index) {
  const [across, along] = SHOWN_AXES[axis];
  const width = grid.dims[across], height = grid.dims[along];
  const values = new Uint8Array(width * height);
  const origin = grid.start + index * grid.step[axis];
  for (let row = 0, at = 0; row < height; row++) {
    let from = origin + row * grid.step[along];
    for (let column = 0; column < width; column++, at++, from += grid.step[across]) values[at] = voxels[from];
  }
  return { width, height, values };
}

const ALONG = [[1, 0], [0, 1], [-1, 0], [0, -1]];

// Outlines of every label above 0, by label: closed loops with the structure on their left, as [x, y, inwardX, inwardY] at
// each turn. x, y: the corner between voxels; inward: where from there, along both axes, the structure is.
export function outlinesOf({ width, height, values }) {
  const value = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  // By label and corner: the directions in which an outline leaves it, as bits.
  const leaving = new Map();
  const leave = (label, x, y, direction) => {
    if (!label) return;
    const key = (label * (height + 1) + y) * (width + 1) + x;
    leaving.set(key, (leaving.get(key) ?? 0) | (1 << direction));
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const here = value(x, y), below = value(x, y - 1), before = value(x - 1, y);
      if (here !== below) leave(here, x, y, 0), leave(below, x + 1, y, 2);
      if (here !== before) leave(before, x, y, 1), leave(here, x, y + 1, 3);
    }
  }
  const outlines = new Map();
  const corners = (width + 1) * (height + 1);
  for (const key of leaving.keys()) {
    const label = Math.floor(key / corners);
    for (let first = 0; first < 4; first++) {
      if (!(leaving.get(key) & (1 << first))) continue;
      const loop = [];
      for (let at = key, direction = first; ; ) {
        leaving.set(at, leaving.get(at) & ~(1 << direction));
        at += ALONG[direction][0] + ALONG[direction][1] * (width + 1);
        // Left before right: voxels that touch at a corner only stay apart. No way on means back at the first corner, as
        // outlines leave each corner as often as they reach it.
        const next = [1, 0, 3].map((turn) => (direction + turn) % 4).find((turn) => leaving.get(at) & (1 << turn));
        const turn = next ?? first;
        if (turn !== direction) {
          const [x, y] = [(at % corners) % (width + 1), Math.floor((at % corners) / (width + 1))];
          const [one, other] = [ALONG[(direction + 1) % 4], ALONG[(turn + 1) % 4]];
          loop.push([x, y, one[0] + other[0], one[1] + other[1]]);
        }
        if (next === undefined) break;
        direction = next;
      }
      if (!outlines.has(label)) outlines.set(label, []);
      outlines.get(label).push(loop);
    }
  }
  return outlines;
}

// Where a plane's voxels lie on the screen: x = left + column * perColumn, and so for rows; `box` is the tile they are in.
// mm: of the grid's two opposite corners.
export function placeOf(tile, grid, mm) {
  const axis = 2 - tile.axCorSag;
  const [across, along] = SHOWN_AXES[axis];
  let [left, top, width, height] = tile.leftTopWidthHeight;
  const mirrored = width < 0;
  if (mirrored) [left, width] = [left + width, -width];
  const x = (at) => {
    const share = (at - tile.leftTopMM[0]) / tile.fovMM[0];
    return left + (mirrored ? 1 - share : share) * width;
  };
  const y = (at) => top + (1 - (at - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
  return {
    axis,
    index: Math.min(grid.dims[axis] - 1, Math.max(0, Math.floor(tile.sliceFrac * grid.dims[axis]))),
    box: [left, top, width, height],
    left: x(mm[0][across]),
    top: y(mm[0][along]),
    perColumn: (x(mm[1][across]) - x(mm[0][across])) / grid.dims[across],
    perRow: (y(mm[1][along]) - y(mm[0][along])) / grid.dims[along],
  };
}

export function fill(context, place, plane, colours, opacity) {
  const picture = new ImageData(plane.width, plane.height);
  for (let at = 0; at < plane.values.length; at++) {
    const colour = colours[plane.values[at]];
    if (colour) picture.data.set([...colour, 255 * opacity], 4 * at);
  }
  const small = new OffscreenCanvas(plane.width, plane.height);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.save();
  context.imageSmoothingEnabled = false;
  context.transform(place.perColumn, 0, 0, place.perRow, place.left, place.top);
  context.drawImage(small, 0, 0);
  context.restore();
}

// Lines lie inside of their structure, so that those of neighbours do not cover each other, and on whole pixels, so that
// they are sharp. dashes: in line widths.
export function outline(context, place, outlines, colours, width, dashes) {
  const shiftX = (Math.sign(place.perColumn) * width) / 2, shiftY = (Math.sign(place.perRow) * width) / 2;
  context.save();
  context.lineWidth = width;
  context.setLineDash(dashes.map((length) => length * width));
  for (const [label, loops] of outlines) {
    if (!colours[label]) continue;
    context.strokeStyle = `rgb(${colours[label].join(" ")})`;
    context.beginPath();
    for (const loop of loops) {
      loop.forEach(([x, y, inwardX, inwardY], at) => {
        const column = Math.round(place.left + x * place.perColumn), row = Math.round(place.top + y * place.perRow);
        const point = [column + inwardX * shiftX, row + inwardY * shiftY];
        at ? context.lineTo(...point) : context.moveTo(...point);
      });
      context.closePath();
    }
    context.stroke();
  }
  context.restore();
}

// The voxel to begin at, in grid order: on the axial slice with most foreground, nearest to its centre of mass.
export function busiest(voxels, grid) {
  const [right, anterior, superior] = grid.dims;
  let best = null;
  for (let z = 0; z < superior; z++) {
    let count = 0, sumX = 0, sumY = 0;
    for (let y = 0; y < anterior; y++) {
      let from = grid.start + y * grid.step[1] + z * grid.step[2];
      for (let x = 0; x < right; x++, from += grid.step[0]) {
        if (voxels[from]) [count, sumX, sumY] = [count + 1, sumX + x, sumY + y];
      }
    }
    if (count && (!best || count > best.count)) best = { count, at: [sumX / count, sumY / count, z].map(Math.round) };
  }
  return best && best.at;
}
