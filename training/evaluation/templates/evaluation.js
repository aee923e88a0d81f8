"use strict";
(() => {
  const anchor = document.getElementById("anchor");
  if (anchor) {
    const tables = [...document.querySelectorAll("[data-anchor]")];
    const show = () => tables.forEach((table) => { table.hidden = table.dataset.anchor !== anchor.value; });
    document.getElementById("anchor-choice").hidden = false;
    anchor.addEventListener("change", show);
    show();
  }

  const source = document.getElementById("picture-data");
  if (!source) return;
  const pictures = JSON.parse(source.textContent);
  const get = (id) => document.getElementById(id);
  const stage = get("stage"), divider = get("divider"), split = get("split"), zoomText = get("zoom-text");
  const panes = [get("pane-left"), get("pane-right")];
  const choices = [get("left"), get("right")];
  get("viewer").hidden = false;

  // Centre is the point of the picture in the middle of both panes, as shares of its width and height; scale is CSS
  // pixels for each pixel of the picture. Both panes always show the same part.
  const view = { x: 0.5, y: 0.5, scale: 1, fitted: true };
  let picture = pictures[0];
  const most = 16;

  const box = () => panes[0].getBoundingClientRect();
  const fit = () => Math.min(box().width / picture.width, box().height / picture.height);
  const isSplit = () => stage.classList.contains("split");

  function clampCentre(value, shown, whole) {
    if (whole <= shown) return 0.5;
    const half = shown / whole / 2;
    return Math.min(1 - half, Math.max(half, value));
  }

  function draw() {
    const area = box();
    const least = fit();
    if (view.fitted) view.scale = least;
    view.scale = Math.min(most, Math.max(Math.min(least, 1), view.scale));
    const width = picture.width * view.scale, height = picture.height * view.scale;
    view.x = clampCentre(view.x, area.width, width);
    view.y = clampCentre(view.y, area.height, height);
    for (const pane of panes) {
      const image = pane.querySelector("img");
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
      image.style.transform = `translate(${area.width / 2 - view.x * width}px, ${area.height / 2 - view.y * height}px)`;
      pane.classList.toggle("sharp", view.scale >= 4);
    }
    stage.classList.toggle("zoomed", view.scale > least * 1.001);
    const at = Number(split.value);
    panes[1].style.clipPath = isSplit() ? `inset(0 0 0 ${at}%)` : "none";
    divider.style.left = `${at}%`;
    zoomText.textContent = `${Math.round(view.scale * 100)} %`;
  }

  // Zooms so that the point under (x, y), in CSS pixels from the middle of a pane, stays where it is.
  function zoom(factor, x = 0, y = 0) {
    const before = view.scale;
    const least = Math.min(fit(), 1);
    const after = Math.min(most, Math.max(least, before * factor));
    view.x += x / picture.width * (1 / before - 1 / after);
    view.y += y / picture.height * (1 / before - 1 / after);
    view.scale = after;
    view.fitted = after === least && least < 1;
    draw();
  }

  function pan(x, y) {
    view.x -= x / (picture.width * view.scale);
    view.y -= y / (picture.height * view.scale);
    draw();
  }

  const fitAll = () => { view.fitted = true; draw(); };
  const actualSize = () => { view.fitted = false; view.scale = 1 / (window.devicePixelRatio || 1); draw(); };

  function showVersions() {
    choices.forEach((choice, side) => {
      const version = picture.views[choice.selectedIndex];
      const image = panes[side].querySelector("img");
      image.src = version.uri;
      image.alt = `${picture.name}, ${version.label}`;
      const tag = panes[side].querySelector(".tag");
      tag.replaceChildren();
      const name = document.createElement("b");
      name.textContent = version.label;
      tag.append(name);
      for (const line of version.lines) tag.append(document.createElement("br"), line);
    });
    draw();
  }

  function choosePicture() {
    const wanted = choices.map((choice) => choice.value);
    picture = pictures[get("picture").selectedIndex];
    choices.forEach((choice, side) => {
      choice.replaceChildren(...picture.views.map((version) => new Option(version.label, version.label)));
      const known = picture.views.findIndex((version) => version.label === wanted[side]);
      choice.selectedIndex = known >= 0 ? known : Math.min(side, picture.views.length - 1);
    });
    Object.assign(view, { x: 0.5, y: 0.5, fitted: true });
    showVersions();
  }

  function swap() {
    [choices[0].selectedIndex, choices[1].selectedIndex] = [choices[1].selectedIndex, choices[0].selectedIndex];
    showVersions();
  }

  function setMode() {
    const chosen = document.querySelector("input[name=mode]:checked").value;
    stage.classList.toggle("split", chosen === "split");
    stage.classList.toggle("side", chosen === "side");
    get("split-choice").hidden = chosen !== "split";
    draw();
  }

  function moveSplit(to) {
    split.value = String(Math.min(100, Math.max(0, to)));
    draw();
  }

  // Where a pointer is, from the middle of the pane that it is over.
  function place(event) {
    const pane = isSplit() || !panes[1].contains(event.target) ? panes[0] : panes[1];
    const area = pane.getBoundingClientRect();
    return { x: event.clientX - area.left - area.width / 2, y: event.clientY - area.top - area.height / 2 };
  }

  const pointers = new Map();
  let moving = "";
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    moving = event.target === divider ? "divider" : "picture";
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, from: place(event) });
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const x = event.clientX - last.x, y = event.clientY - last.y;
    if (moving === "divider") {
      const area = stage.getBoundingClientRect();
      moveSplit(100 * (event.clientX - area.left) / area.width);
    } else if (pointers.size === 1) {
      pan(x, y);
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      if (before > 0) zoom(after / before, (last.from.x + other.from.x) / 2, (last.from.y + other.from.y) / 2);
      pan(x / 2, y / 2);
    }
    last.from.x += x;
    last.from.y += y;
    last.x = event.clientX;
    last.y = event.clientY;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) { moving = ""; stage.classList.remove("dragging"); }
    });
  }
  // The wheel scrolls the page until the stage was selected, so that nobody gets stuck in it.
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== stage) return;
    event.preventDefault();
    const from = place(event);
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), from.x, from.y);
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    const from = place(event);
    zoom(2, from.x, from.y);
  });

  const keys = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fitAll, "1": actualSize, s: swap,
    "[": () => moveSplit(Number(split.value) - 5), "]": () => moveSplit(Number(split.value) + 5),
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
  };
  stage.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  get("picture").addEventListener("change", choosePicture);
  choices.forEach((choice) => choice.addEventListener("change", showVersions));
  split.addEventListener("input", draw);
  document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", setMode));
  get("zoom-in").addEventListener("click", () => zoom(1.25));
  get("zoom-out").addEventListener("click", () => zoom(0.8));
  get("zoom-fit").addEventListener("click", fitAll);
  get("zoom-actual").addEventListener("click", actualSize);
  get("swap").addEventListener("click", swap);
  new ResizeObserver(draw).observe(stage);

  get("picture").replaceChildren(...pictures.map((one) => new Option(one.name, one.name)));
  choosePicture();
  setMode();
})();
