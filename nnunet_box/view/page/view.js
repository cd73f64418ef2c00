// The viewer's page: NiiVue draws the image's slices and the 3-D view, planes.js draws label maps on the slices.
import { busiest, fill, outline, outlinesOf, placeOf, planeOf } from "./planes.js";

const VOXELS_AT = 352; // bytes before the voxels of a NIfTI-1 file as the server makes it
const SAMPLED = 200000; // voxels that percentiles are taken from
const LINE = 2; // CSS pixels
const AXES = ["Sagittal", "Coronal", "Axial"];
const VIEWS = [["planes and 3-D", "MULTIPLANAR"], ["axial", "AXIAL"], ["coronal", "CORONAL"], ["sagittal", "SAGITTAL"], ["3-D", "RENDER"]];
const STYLES = ["off", "contour", "fill"];
const REFERENCE_DASHES = [5, 3];
const DASHES = [[], [1.5, 2], [8, 3, 2, 3], [12, 4]];
// Centre and width in Hounsfield units, as reading rooms use them.
const CT_WINDOWS = [["soft tissue", 40, 400], ["liver", 60, 160], ["lung", -600, 1500], ["bone", 400, 1800], ["brain", 40, 80]];
const CT_AIR = -500; // no other image has values below it

const element = (id) => document.getElementById(id);
const [screen, drawn] = [element("screen"), element("drawn")];
const hidden = new Set();
let facts, viewer, grid, layers, solid, colours;
let held = 1; // while above 0 nothing is drawn

function tell(words, failed = false) {
  element("state").textContent = words;
  element("state").classList.toggle("failed", failed);
}

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.text()).trim());
  return response;
}

// A volume's bytes; meanwhile the page says how much has come.
function fetched(path, name) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", path);
    request.responseType = "arraybuffer";
    request.onprogress = ({ loaded, total }) => tell(`loading ${name}: ${Math.round((100 * loaded) / total)} %`);
    request.onerror = () => reject(new Error(`${name} did not arrive: has nnbox view ended?`));
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(new TextDecoder().decode(request.response).trim()));
    };
    request.send();
  });
}

function percentiles(values, ...shares) {
  const step = Math.max(1, Math.floor(values.length / SAMPLED));
  const sampled = new Float64Array(Math.ceil(values.length / step));
  for (let at = 0, from = 0; at < sampled.length; at++, from += step) sampled[at] = values[from];
  sampled.sort();
  return shares.map((share) => sampled[Math.min(sampled.length - 1, Math.floor(share * sampled.length))]);
}

// What a channel can be seen by: [name, from, to].
function windowsOf(values, channel) {
  const [least, low, high, most] = percentiles(values, 0, 0.005, 0.995, 1);
  const windows = [["0.5 to 99.5 % of the values", low, high > low ? high : low + 1], ["all values", least, most > least ? most : least + 1]];
  if (channel.hounsfield ?? least < CT_AIR) {
    windows.unshift(...CT_WINDOWS.map(([name, centre, width]) => [`CT: ${name}`, centre - width / 2, centre + width / 2]));
  }
  return windows;
}

function setWindow(low, high) {
  if (!(high > low)) return;
  [viewer.volumes[0].cal_min, viewer.volumes[0].cal_max] = [low, high];
  [element("low").value, element("high").value] = [low, high].map((value) => Number(value.toPrecision(5)));
  refreshImage();
}

function refreshImage() {
  // Slices are drawn with the opacity an image has while they are drawn, the 3-D view with that of its last refresh.
  viewer.volumes[0].opacity = Number(element("haze").value) / 100;
  held++;
  viewer.updateGLVolume();
  viewer.volumes[0].opacity = 1;
  held--;
  viewer.drawScene();
}

async function showChannel(index) {
  const channel = facts.channels[index];
  const image = await niivue.NVImage.new(await fetched(`image/${index}`, channel.name), "image.nii", "gray", 1);
  held++;
  const most = viewer.uiData.max3D;
  if (Math.max(...image.dimsRAS.slice(1, 4)) > most) throw new Error(`This graphics card draws at most ${most} voxels along an axis.`);
  for (const volume of [...viewer.volumes]) viewer.removeVolume(volume);
  const windows = windowsOf(image.img, channel);
  const choice = element("window");
  choice.replaceChildren(...windows.map(([name], at) => make("option", { textContent: name, value: at })), make("option", { textContent: "chosen", value: "" }));
  choice.onchange = () => choice.value !== "" && setWindow(...windows[choice.value].slice(1));
  [image.cal_min, image.cal_max] = windows[0].slice(1);
  viewer.addVolume(image);
  grid = { dims: image.dimsRAS.slice(1, 4), step: image.img2RASstep, start: image.img2RASstart.reduce((sum, one) => sum + one, 0) };
  if (solid) viewer.addVolume(solid);
  held--;
  setWindow(...windows[0].slice(1));
}

// The label map of the 3-D view; slices get theirs from paint().
async function showSolid() {
  const layer = layers[element("solid").value];
  if (!solid && layer) {
    solid = await niivue.NVImage.new(layer.buffer, "labels.nii", "gray", 1);
    solid.img = layer.voxels;
    setSolidColours();
    held++;
    viewer.addVolume(solid);
    held--;
  } else if (solid) {
    if (layer) solid.img = layer.voxels;
    setSolidColours();
  }
  refreshImage();
}

function setSolidColours() {
  const numbers = colours.map((_, label) => label);
  const channel = (at) => colours.map((colour) => colour?.[at] ?? 0);
  const seen = element("solid").value !== "";
  const alpha = numbers.map((label) => (seen && colours[label] ? 255 : 0));
  solid.setColormapLabel({ R: channel(0), G: channel(1), B: channel(2), A: alpha, I: numbers, labels: numbers.map(String) });
}

function setColours() {
  const rgb = facts.colours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const highest = Math.max(1, ...facts.structures);
  colours = [...Array(highest + 1).keys()].map((label) => (label && !hidden.has(label) ? rgb[(label - 1) % rgb.length] : null));
}

const nameOf = (label) => (label ? facts.labels[label] ?? `label ${label}` : "background");

// Everything below the crosshair, and the planes of the label maps, each time NiiVue has drawn.
function paint() {
  const { canvas } = viewer;
  // Each frame is a picture of its own: a canvas that was cleared and not drawn on went on showing an earlier frame, in
  // Chromium 156 without a graphics card.
  const frame = new OffscreenCanvas(canvas.width, canvas.height);
  const context = frame.getContext("2d");
  const ratio = canvas.width / screen.clientWidth;
  const corners = [viewer.frac2mm([0, 0, 0]), viewer.frac2mm([1, 1, 1])];
  for (const tile of viewer.screenSlices) {
    if (tile.axCorSag > 2 || !Number.isFinite(tile.sliceFrac)) continue;
    const place = placeOf(tile, grid, corners);
    context.save();
    context.beginPath();
    context.rect(...place.box);
    context.clip();
    for (const layer of layers) {
      if (layer.style === "off") continue;
      const key = `${place.axis}/${place.index}`;
      const kept = layer.planes[place.axis];
      const plane = kept?.key === key ? kept : { key, ...planeOf(layer.voxels, grid, place.axis, place.index) };
      layer.planes[place.axis] = plane;
      if (layer.style === "fill") fill(context, place, plane, colours, Number(element("opacity").value) / 100);
      else outline(context, place, (plane.outlines ??= outlinesOf(plane)), colours, Math.round(LINE * ratio), layer.dashes);
    }
    context.restore();
  }
  drawn.getContext("bitmaprenderer").transferFromImageBitmap(frame.transferToImageBitmap());
  tellPlace();
}

function voxelHere() {
  return [...viewer.scene.crosshairPos].map((share, axis) => Math.min(grid.dims[axis] - 1, Math.max(0, Math.floor(share * grid.dims[axis]))));
}

function tellPlace() {
  const voxel = voxelHere();
  const at = voxel.reduce((sum, index, axis) => sum + index * grid.step[axis], grid.start);
  const mm = viewer.frac2mm(viewer.scene.crosshairPos, 0, true);
  const labels = layers.filter(({ style }) => style !== "off").map((layer) => `${layer.name}: ${nameOf(layer.voxels[at])}`);
  const place = ["R", "A", "S"].map((letter, axis) => `${letter} ${mm[axis].toFixed(1)}`).join("  ");
  element("here").textContent = [`${place} mm`, `value ${Number(viewer.volumes[0].img[at].toPrecision(5))}`, ...labels].join(" · ");
  AXES.forEach((name, axis) => {
    element(`slice-${axis}`).value = voxel[axis] + 1;
    element(`count-${axis}`).textContent = `${voxel[axis] + 1} of ${grid.dims[axis]}`;
  });
}

function move(axis, steps) {
  const by = [0, 0, 0];
  by[axis] = steps;
  viewer.moveCrosshairInVox(...by);
}

function setView(at) {
  element("view").value = at;
  viewer.setSliceType(viewer[`sliceType${{ MULTIPLANAR: "Multiplanar", AXIAL: "Axial", CORONAL: "Coronal", SAGITTAL: "Sagittal", RENDER: "Render" }[VIEWS[at][1]]}`]);
}

function zoom(factor) {
  const [x, y, z, now] = viewer.scene.pan2Dxyzmm;
  viewer.setPan2Dxyzmm(factor ? [x, y, z, Math.min(16, Math.max(1, now * factor))] : [0, 0, 0, 1]);
}

function setStyle(layer, style) {
  if (style === "off") layer.before = layer.style === "off" ? layer.before : layer.style;
  layer.style = layer.choice.value = style;
  viewer.drawScene();
}

function addViewControls() {
  element("view").append(...VIEWS.map(([name], at) => make("option", { textContent: name, value: at })));
  element("view").onchange = (event) => setView(Number(event.target.value));
  element("channel").append(...facts.channels.map(({ name }, at) => make("option", { textContent: name, value: at })));
  element("channel-row").hidden = facts.channels.length < 2;
  element("channel").onchange = (event) => attempt(() => showChannel(Number(event.target.value)));
  for (const id of ["low", "high"]) {
    element(id).onchange = () => {
      element("window").value = "";
      setWindow(Number(element("low").value), Number(element("high").value));
    };
  }
  element("slices").append(
    ...AXES.map((name, axis) => {
      const slider = make("input", { type: "range", id: `slice-${axis}`, min: 1, max: grid.dims[axis] });
      slider.oninput = () => move(axis, Number(slider.value) - 1 - voxelHere()[axis]);
      const count = make("output", { id: `count-${axis}` });
      return make("p", { className: "row" }, make("label", { htmlFor: slider.id, textContent: name }), slider, count);
    }),
  );
}

function addLayerControls() {
  element("layers-field").hidden = element("solid-field").hidden = !layers.length;
  element("layers").append(
    ...layers.map((layer, at) => {
      layer.choice = make("select", { id: `layer-${at}` }, ...STYLES.map((style) => make("option", { textContent: style, value: style })));
      layer.choice.value = layer.style;
      layer.choice.onchange = () => setStyle(layer, layer.choice.value);
      return make("p", { className: "row" }, make("label", { htmlFor: layer.choice.id, textContent: layer.name }), layer.choice);
    }),
  );
  element("opacity").oninput = () => viewer.drawScene();
  const named = layers.map(({ name }, at) => make("option", { textContent: name, value: at }));
  element("solid").append(...named, make("option", { textContent: "none", value: "" }));
  element("solid").value = Math.max(0, layers.findIndex(({ reference }) => !reference));
  element("solid").onchange = () => attempt(showSolid);
  element("haze").oninput = refreshImage;
}

function addStructures() {
  const compared = layers.some(({ reference }) => reference) ? layers.filter(({ reference }) => !reference) : [];
  element("structures-field").hidden = !facts.structures.length;
  element("dice-caption").hidden = !compared.length;
  element("heads").append(...compared.map(({ name }) => make("th", { scope: "col", textContent: name })));
  for (const label of facts.structures) {
    const box = make("input", { type: "checkbox", checked: true });
    box.onchange = () => {
      box.checked ? hidden.delete(label) : hidden.add(label);
      setColours();
      attempt(showSolid);
    };
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = facts.colours[(label - 1) % facts.colours.length];
    const head = make("th", { scope: "row" }, make("label", {}, box, swatch, nameOf(label)));
    const cells = compared.map((layer) => make("td", { id: `dice-${layers.indexOf(layer)}-${label}`, textContent: "…" }));
    element("structures").append(make("tr", {}, head, ...cells));
  }
  return compared;
}

async function addDice(compared) {
  for (const layer of compared) {
    const at = layers.indexOf(layer);
    const dice = await (await ask(`dice/${at}`)).json();
    for (const label of facts.structures) element(`dice-${at}-${label}`).textContent = dice[label]?.toFixed(3) ?? "–";
  }
}

function addKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, summary, .scroll")) return;
    const axis = { SAGITTAL: 0, CORONAL: 1 }[VIEWS[element("view").value][1]] ?? 2;
    const layer = layers[Number(event.key) - 1];
    if (event.key === "ArrowUp") move(axis, 1);
    else if (event.key === "ArrowDown") move(axis, -1);
    else if (event.key === "v") setView((Number(element("view").value) + 1) % VIEWS.length);
    else if (event.key === "+") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") zoom(null);
    else if (layer) setStyle(layer, layer.style === "off" ? layer.before : "off");
    else return;
    event.preventDefault();
  });
}

// The structures to list: those with a name, and any other number that occurs in a label map.
function structuresOf() {
  const occurring = new Uint8Array(256);
  for (const { voxels } of layers) for (let at = 0; at < voxels.length; at++) occurring[voxels[at]] = 1;
  const all = new Set([...Object.keys(facts.labels).map(Number), ...[...occurring.keys()].filter((label) => label && occurring[label])]);
  return [...all].sort((one, other) => one - other);
}

async function attempt(what) {
  try {
    await what();
    tell(facts.dataset ? `data set ${facts.dataset}` : "");
  } catch (error) {
    tell(error.message, true);
    throw error;
  }
}

async function start() {
  history.replaceState(null, "", "/");
  facts = await (await ask("case.json")).json();
  element("title").textContent = document.title = facts.title;
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("This browser does not offer WebGL 2, which the viewer draws with.");
  viewer = new niivue.Niivue({
    logLevel: "error", dragAndDropEnabled: false, isForceMouseClickToVoxelCenters: true, isRadiologicalConvention: true,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, multiplanarPadPixels: 4, crosshairColor: [1, 1, 1, 0.6],
    crosshairWidthUnit: "percent", crosshairWidth: 0.3, fontColor: [1, 1, 1, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
  });
  viewer.overlayAlphaShader = 0;
  const draw = viewer.drawScene.bind(viewer);
  viewer.drawScene = () => {
    if (held) return;
    draw();
    paint();
  };
  layers = [];
  await viewer.attachToCanvas(element("volume"));
  await showChannel(0);
  for (const [at, { name, reference }] of facts.layers.entries()) {
    const buffer = await fetched(`labels/${at}`, name);
    const predictions = layers.filter((layer) => !layer.reference).length;
    const style = reference ? "fill" : predictions ? "off" : "contour";
    const dashes = reference ? REFERENCE_DASHES : DASHES[predictions % DASHES.length];
    const before = reference ? "fill" : "contour";
    layers.push({ name, reference, buffer, voxels: new Uint8Array(buffer, VOXELS_AT), style, before, dashes, planes: [] });
  }
  facts.structures = structuresOf();
  setColours();
  addViewControls();
  addLayerControls();
  const compared = addStructures();
  addKeys();
  const voxel = layers.length ? busiest(layers.find(({ reference }) => reference)?.voxels ?? layers[0].voxels, grid) : null;
  const here = voxelHere();
  if (voxel) viewer.moveCrosshairInVox(...voxel.map((index, axis) => index - here[axis]));
  if (layers.length) await showSolid();
  held = 0;
  viewer.drawScene();
  return compared;
}

attempt(async () => {
  const compared = await start();
  document.body.dataset.ready = "images";
  await addDice(compared);
  document.body.dataset.ready = "all";
});
