// The page of `diffcore demo`: it sends what the visitor asks for, and shows the samples while they are drawn.
"use strict";

const find = (selector, place = document) => place.querySelector(selector);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

async function ask(address, { body, raw } = {}) {
  const options = raw !== undefined ? { method: "POST", body: raw } : body !== undefined
    ? { method: "POST", body: JSON.stringify(body) } : {};
  let answer;
  try { answer = await fetch(address, options); } catch { throw new Error("The server does not answer; it may have been stopped."); }
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined));
const download = (values) => `download?${query(values)}`;

// A frame without access to the page, in which fragments of plugins are shown.
class Frame {
  constructor(place, title, listener) {
    this.waiting = [];
    this.ready = false;
    this.element = made("iframe", { title, src: "frame" });
    this.element.setAttribute("sandbox", "allow-scripts");
    place.replaceChildren(this.element);
    addEventListener("message", ({ source, data }) => {
      if (source === null || source !== this.element.contentWindow || typeof data !== "object" || data === null) return;
      if (data.ready) { this.ready = true; this.waiting.splice(0).forEach((message) => this.send(message)); }
      if (Number.isFinite(data.height)) this.element.style.height = `${Math.min(Math.max(data.height, 0), 20000)}px`;
      listener(data);
    });
  }
  send(message) {
    if (this.ready) this.element.contentWindow.postMessage(message, "*"); else this.waiting.push(message);
  }
}

const TILE = "8rem";
const WIDE = "15rem";

let runs = [];
const panels = [];

// The distribution of the data behind a slider: the density between neighbouring quantiles.
function density(quantiles) {
  const low = quantiles[0], high = quantiles[quantiles.length - 1], bins = 40;
  const at = (value) => {
    let k = quantiles.findIndex((each) => each > value);
    if (k < 0) k = quantiles.length - 1;
    if (k === 0) return 0;
    const width = quantiles[k] - quantiles[k - 1];
    return (k - 1 + (width > 0 ? (value - quantiles[k - 1]) / width : 1)) / (quantiles.length - 1);
  };
  const edges = Array.from({ length: bins + 1 }, (_, k) => at(low + ((high - low) * k) / bins));
  const heights = edges.slice(1).map((edge, k) => Math.max(0, edge - edges[k]));
  const most = Math.max(...heights) || 1;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${bins} 10`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", heights.map((height, k) => `M${k},10 v${(-10 * height) / most} h1 V10z`).join(""));
  svg.append(path);
  return svg;
}

const short = (value) => String(Number(value.toPrecision(4)));

function control(panel, { name, kind, choices, quantiles, unit }) {
  const title = unit ? `${name} (${unit})` : name;
  const field = `condition ${name}`;  // a condition may be called "size", as a field of the page is
  if (kind === "menu") {
    const menu = made("select", { name: field }, made("option", { value: "", textContent: "not asked for" }),
      ...choices.map((choice) => made("option", { value: choice, textContent: choice })));
    return { label: made("label", {}, title, menu), value: () => menu.value };
  }
  if (kind === "slider") {
    const low = quantiles[0], high = quantiles[quantiles.length - 1];
    const slider = made("input", { type: "range", min: low, max: high, step: "any", value: quantiles[Math.floor(quantiles.length / 2)] });
    const text = made("input", { name: field, placeholder: "not asked for", autocomplete: "off" });
    slider.setAttribute("aria-label", `${title}, slider`);
    text.setAttribute("aria-label", title);
    text.title = "A number, or a range such as 40..60";
    slider.addEventListener("input", () => { text.value = short(Number(slider.value)); });
    text.addEventListener("input", () => { if (text.value && Number.isFinite(Number(text.value))) slider.value = text.value; });
    const range = made("span", { className: "range" }, density(quantiles), slider,
      made("span", { className: "ends" }, made("span", { textContent: short(low) }), made("span", { textContent: short(high) })));
    return { label: made("label", {}, title, made("span", { className: "both number" }, range, text)), value: () => text.value.trim() };
  }
  if (kind === "file") {
    const input = made("input", { type: "file", name: field });
    let file = "";
    input.addEventListener("change", () => panel.guarded(async () => { file = input.files.length ? await sent(input.files[0]) : ""; }));
    return { label: made("label", {}, title, input), value: () => file };
  }
  const list = made("datalist", { id: `choices-${panel.number}-${name}` }, ...choices.map((value) => made("option", { value })));
  const text = made("input", { name: field, autocomplete: "off", placeholder: choices[0] ?? "not asked for" });
  text.setAttribute("list", list.id);
  return { label: made("label", {}, title, text, list), value: () => text.value };
}

// Sends a file, and returns the name by which the server knows it.
async function sent(file) {
  const [ending] = file.name.match(/(\.[A-Za-z0-9]{1,8})?\.[A-Za-z0-9]{1,8}$/) ?? [""];  // such as .sdf.gz
  const answer = await ask(`files?${query({ ending })}`, { raw: file });
  return answer.file;
}

const ACTIONS = {
  draw: "noise: new samples", vary: "a sample or a file: variations", complete: "a sample or a file: fill in a part",
  enlarge: "a smaller file: enlarge it", given: "one side: draw the other",
};

class Panel {
  constructor(number) {
    this.number = number;
    this.turn = this.over = 0;
    this.element = find("#panel").content.cloneNode(true).firstElementChild;
    find("#panels").append(this.element);
    this.form = find("form", this.element);
    this.status = find(".status", this.element);
    this.progress = find("progress", this.element);
    this.fields = this.form.elements;
    this.frame = new Frame(find(".out .samples", this.element), `Samples ${number + 1}`, (data) => this.heard(data));
    this.fields.run.append(...runs.map((run, k) => made("option", { value: k, textContent: run.name })));
    this.fields.run.addEventListener("change", () => this.rebuild());
    this.fields.action.addEventListener("change", () => this.arrange());
    this.fields.file.addEventListener("change", () => this.take(this.fields.file.files[0]));
    this.fields.maskfile.addEventListener("change", () => this.guarded(async () => {
      const file = this.fields.maskfile.files[0];
      this.mask = file ? await sent(file) : null;
      this.painted = null;
    }));
    for (const name of ["strength", "guidance"]) {
      const field = this.fields[name];
      field.addEventListener("input", () => { field.nextElementSibling.value = short(Number(field.value)); });
    }
    const drop = find(".settings", this.element);
    for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
    for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => this.take(event.dataTransfer.files[0]));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); drawAll(); });
    this.rebuild();
  }

  get run() { return runs[Number(this.fields.run.value)]; }

  // Chooses the run with this number, if it is not chosen already.
  choose(number) {
    if (Number(this.fields.run.value) === number) return;
    this.fields.run.value = number;
    this.rebuild();
  }

  // Shows the controls of the chosen run.
  rebuild() {
    const run = this.run, { solver, steps, guidance, side, size } = this.fields;
    find(".about", this.element).textContent = `${run.modality}, preset ${run.preset}, ${run.checkpoint}`;
    this.controls = run.conditions.map((each) => ({ name: each.name, ...control(this, each) }));
    const conditions = find(".conditions", this.element);
    conditions.replaceChildren(made("legend", { textContent: "Conditions" }), ...this.controls.map(({ label }) => label));
    conditions.hidden = !this.controls.length;
    solver.replaceChildren(...run.solvers.map((name) => made("option", { value: name, textContent: name })));
    solver.value = run.solver;
    steps.value = run.steps;
    guidance.step = Number.isInteger(Number(((run.guidance ?? 1) * 10).toPrecision(9))) ? 0.1 : "any";
    guidance.min = Math.min(0, run.guidance ?? 1);  // a slider has no values beyond its ends or between its steps
    guidance.max = Math.max(8, run.guidance ?? 1);
    guidance.value = run.guidance ?? 1;
    guidance.nextElementSibling.value = guidance.value;
    find(".guidance", this.element).hidden = run.guidance === null;
    size.value = "";
    size.placeholder = run.sizes ? `${run.sizes[0]}..${run.sizes[1]}` : "as in training";
    side.replaceChildren(...run.sides.map((name) => made("option", { value: name, textContent: name })));
    this.fields.action.replaceChildren(...["draw", ...Object.keys(run.actions)].map((name) => made("option", { value: name, textContent: ACTIONS[name] })));
    this.fields.file.accept = run.endings.join(",");
    this.source = this.mask = this.painted = null;
    this.arrange();
  }

  // Whether samples can have another size: those that start from something have the size of that.
  sized() {
    const run = this.run, action = this.fields.action.value, takes = run.actions[action] ?? [];
    return action === "draw" ? Boolean(run.sizes || run.resizes) : takes.includes("gap") || takes.includes("grow");
  }

  // Shows the fields of the chosen action.
  arrange() {
    const run = this.run, action = this.fields.action.value, takes = run.actions[action] ?? [];
    const ask = run.widgets, turn = (this.arranged = (this.arranged ?? 0) + 1);
    find(".source", this.element).hidden = action === "draw";
    find(".from", this.element).textContent = this.source ? this.source.words : "Choose a file here, or a sample by its buttons.";
    for (const name of ["strength", "side", "gap", "free", "grow"]) find(`.${name}`, this.element).hidden = !takes.includes(name);
    find(".maskfile", this.element).hidden = !takes.includes("mask");
    find(".size", this.element).hidden = !this.sized();
    this.frame.send({ chosen: this.source?.result !== undefined && this.source.result === this.result ? this.source.sample : -1 });
    const argument = takes.find((name) => name in ask), place = find(".widget", this.element);
    const numbered = argument === "free" && this.source?.file !== undefined;  // files have numbers of their own
    const pointed = action === "complete" && this.source && argument !== undefined && !numbered;
    if (pointed) find(argument === "mask" ? ".maskfile" : `.${argument}`, this.element).hidden = true;
    if (!pointed) { place.replaceChildren(); this.widget = null; return; }
    this.guarded(async () => {
      const { html } = await widgetFor(this, argument);
      if (this.arranged !== turn) return;  // another sample or action was chosen in the meantime
      const inner = made("div");
      place.replaceChildren(made("p", { className: "about", textContent: ask[argument] }), inner);
      this.widget = new Frame(inner, ask[argument], (data) => this.chosen(argument, data.choose));
      this.widget.send({ widget: html });
    });
  }

  // What a widget has chosen: the text of a field, or a mask as a data URL.
  chosen(argument, text) {
    if (typeof text !== "string" || text.length > 8e6) return;
    if (argument !== "mask") { this.fields[argument].value = text.slice(0, 20000); return; }
    const [, content] = text.match(/^data:image\/png;base64,([A-Za-z0-9+/=]+)$/) ?? [];
    if (content === undefined) return;
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    this.painted = new File([bytes], "mask.png");  // it is sent with the drawing, not with each stroke
  }

  async take(file) {
    if (!file) return;
    await this.guarded(async () => {
      const name = await sent(file);
      this.source = { file: name, words: `Starts from the file ${file.name}.` };
      this.mask = this.painted = null;
      if (this.fields.action.value === "draw") this.fields.action.value = "vary";
      this.arrange();
    });
  }

  // Starts from a sample of a result.
  start(action, result, sample, words) {
    this.source = { result, sample, words };
    this.mask = this.painted = null;
    this.fields.action.value = action;
    this.arrange();
  }

  heard(data) {
    if (!Number.isInteger(data.sample) || this.result === undefined) return;
    if (data.action === "vary" || data.action === "complete") this.choose(this.resultRun);
    act(this, data.action, this.result, data.sample, `Starts from sample ${data.sample + 1} of the last drawing.`);
  }

  wanted(n, seed) {
    const run = this.run, { action, strength, gap, free, grow, side, solver, steps, guidance, size } = this.fields;
    const takes = run.actions[action.value] ?? [], has = (name, value) => (takes.includes(name) && value ? value : undefined);
    const conditions = Object.fromEntries(this.controls.map((each) => [each.name, each.value()]).filter(([, value]) => value !== ""));
    const { file, result, sample } = this.source ?? {};
    return {
      run: Number(this.fields.run.value), n, seed, conditions, action: action.value,
      steps: Number(steps.value), solver: solver.value === run.solver ? undefined : solver.value,
      guidance: run.guidance === null || Number(guidance.value) === run.guidance ? undefined : Number(guidance.value),
      size: (this.sized() && size.value.trim()) || undefined, strength: takes.includes("strength") ? Number(strength.value) : undefined,
      source: action.value === "draw" || !this.source ? undefined : { file, result, sample },
      mask: has("mask", this.mask), gap: has("gap", gap.value.trim()), free: has("free", free.value.trim()),
      grow: has("grow", grow.value.trim()), side: has("side", side.value),
    };
  }

  // Whether a drawing that nothing has taken the place of is not at its end.
  get drawing() { return this.turn !== this.over; }

  async draw(n, seed) {
    const turn = ++this.turn, number = Number(this.fields.run.value), run = this.run;
    this.say("waiting");
    await this.cancel();
    await this.guarded(async () => {
      if (this.painted) { this.mask = await sent(this.painted); this.painted = null; }
      if (this.turn !== turn) return;
      const { job } = await ask("jobs", { body: this.wanted(n, seed) });
      if (this.turn !== turn) { await stopped(job); return; }  // Stop or Draw was used in the meantime
      this.job = job;
      this.progress.hidden = false;
      this.progress.value = 0;
      let first = true;
      for (let version = -1; this.turn === turn;) {
        const news = await ask(`jobs/${job}?after=${version}`);
        if (this.turn !== turn) return;
        version = news.version;
        this.progress.value = news.done;
        if (news.tiles) {
          this.show(run, news.tiles, news.state !== "done");
          if (first) setTimeout(() => this.reveal(), 250);  // when the frame has its height
          first = false;
        }
        if (news.state === "waiting") this.say(`waiting: ${news.ahead} before this one`);
        if (news.state === "running") this.say(`drawing: ${Math.round(100 * news.done)} %`);
        if (news.state === "failed") throw new Error(news.message);
        if (news.state === "cancelled") { this.say("stopped"); break; }
        if (news.state === "done") { this.finish(number, news.result); break; }
      }
    }, () => this.turn === turn);
    if (this.turn === turn) { this.over = turn; this.job = null; this.progress.hidden = true; }
  }

  async cancel() {
    const job = this.job;
    this.job = null;
    if (job) await stopped(job);
  }

  // Ends what is being drawn, also if the server does not know of it yet.
  async stop() {
    if (!this.drawing) return;
    this.over = ++this.turn;
    this.progress.hidden = true;
    this.say("stopped");
    await this.cancel();
  }

  show(run, tiles, unfinished) {
    const buttons = [["keep", "♥", "Keep"], ["vary", "≈", "More like this"], ["save", "↓", "Save"]];
    if (run.actions.complete) buttons.push(["complete", "✎", "Fill in a part"]);
    this.count = tiles.length;
    this.frame.send({ tiles, buttons, unfinished, width: widthOf(tiles), chosen: -1 });
  }

  // On a narrow screen the samples are below the settings.
  reveal() {
    if (matchMedia("(max-width: 60rem)").matches) find(".out", this.element).scrollIntoView({ behavior: "smooth" });
  }

  finish(number, result) {
    this.result = result;
    this.resultRun = number;
    this.say(this.count === 1 ? "1 sample" : `${this.count} samples`);
    const saving = find(".saving", this.element);
    saving.hidden = false;
    find(".links", saving).replaceChildren(...runs[number].downloads.map((ending) =>
      made("a", { href: download({ result, ending }), download: "", textContent: ending.slice(1).toUpperCase() })));
  }

  say(text, wrong = false) {
    this.status.textContent = text;
    this.status.classList.toggle("wrong", wrong);
  }

  // Does something, and says what went wrong, if that still matters.
  async guarded(work, matters = () => true) {
    try { return await work(); } catch (error) { if (matters()) this.say(error.message, true); }
  }
}

const stopped = (job) => ask(`jobs/${job}/cancel`, { body: {} }).catch(() => {});

// Players and scenes need more place than pictures.
const widthOf = (tiles) => (tiles.some((tile) => tile.includes("<canvas") || tile.includes("<audio")) ? WIDE : TILE);

const widgetFor = (panel, argument) =>
  ask(`widget?${query({ argument })}`, { body: panel.wanted(1, 0) });

// A button below a sample was used.
function act(panel, action, result, sample, words) {
  panel.guarded(async () => {
    if (action === "keep") showKept(await ask(`kept?${query({ result, sample })}`, { body: {} }));
    if (action === "drop") showKept(await ask(`kept?${query({ drop: 1, sample })}`, { body: {} }));
    if (action === "save") made("a", { href: download({ result, sample, ending: ".zip" }), download: "" }).click();
    if (action === "vary") { panel.start("vary", result, sample, words); await drawAll([panel]); }
    if (action === "complete") panel.start("complete", result, sample, words);
  });
}

let keptFrame = null, kept = { runs: [], numbers: [] };
function showKept({ tiles, ...more }) {
  kept = more;
  const section = find("#kept");
  section.hidden = !tiles.length;
  if (!tiles.length) return;
  keptFrame ??= new Frame(find(".samples", section), "Kept samples", (data) => {
    const run = kept.runs[data.sample], number = kept.numbers[data.sample];
    if (number === undefined) return;
    const panel = panels.find((each) => Number(each.fields.run.value) === run) ?? panels[0];
    if (data.action === "vary") panel.choose(run);
    act(panel, data.action, "kept", number, `Starts from kept sample ${data.sample + 1}.`);
  });
  find("#kept-zip").href = download({ result: "kept", ending: ".zip" });
  const buttons = [["vary", "≈", "More like this"], ["save", "↓", "Save"], ["drop", "✕", "Keep no longer"]];
  keptFrame.send({ tiles, buttons, width: widthOf(tiles) });
}

async function drawAll(which = panels) {
  const common = find("#common");
  if (![common, ...which.map((panel) => panel.form)].every((form) => form.reportValidity())) return;
  find("#stop").hidden = false;
  await Promise.all(which.map((panel) => panel.draw(Number(find("#n").value), Number(find("#seed").value))));
  find("#stop").hidden = panels.every((panel) => !panel.drawing);
}

function compare() {
  const two = panels.length < 2;
  if (two) panels.push(new Panel(1)); else { const [last] = panels.splice(1); last.stop(); last.element.remove(); }
  if (two && runs.length > 1) { panels[1].fields.run.value = panels[0].fields.run.value === "0" ? 1 : 0; panels[1].rebuild(); }
  document.body.classList.toggle("two", two);
  find("#compare").setAttribute("aria-pressed", String(two));
}

async function begin() {
  const notice = find("#notice");
  try {
    runs = await ask("runs");
    find("#n").max = runs[0].most;
    find("#n").value = runs[0].n;
    panels.push(new Panel(0));
    find("#common").addEventListener("submit", (event) => { event.preventDefault(); drawAll(); });
    find("#reseed").addEventListener("click", () => { find("#seed").value = Math.floor(Math.random() * 1e6); drawAll(); });
    find("#stop").addEventListener("click", () => panels.forEach((panel) => panel.stop()));
    // A file that misses the settings would take the place of the page.
    for (const kind of ["dragenter", "dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
    find("#compare").addEventListener("click", compare);
    showKept(await ask("kept"));
  } catch (error) {
    notice.textContent = error.message;
    notice.hidden = false;
  }
}
begin();
