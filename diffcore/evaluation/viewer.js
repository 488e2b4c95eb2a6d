// Draws the scenes of diffcore.evaluation.viewer, one per canvas with data-scene. Only changed, visible scenes are redrawn.
(() => {
  "use strict";
  if (window.diffcoreScenes) { window.diffcoreScenes(); return; }

  const DISCS = 1000;      // more points than this are drawn pixel by pixel, without highlights
  const DISTANCE = 4;      // of the camera, in radii of the scene
  const FOG = 0.42, SHADES = 12;  // fraction of the background in the farthest colours; number of shades up to it
  const MOST = 2 ** 20;    // maximum number of balls and halves of sticks in a scene
  const START = [1, 0, 0, 0, 1, 0, 0, 0, 1];

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const indexed = ([values, index], n) => {
    const which = index ? new Uint16Array(bytes(index)) : new Uint16Array(n);
    return { values, which };
  };

  function read(text) {
    const data = JSON.parse(text);
    const points = Float32Array.from(new Int16Array(bytes(data.points)), (v) => v * data.unit);
    const n = points.length / 3, colours = indexed(data.colours, n), sizes = indexed(data.radii, n);
    const radii = Float32Array.from(sizes.which, (k) => sizes.values[k]);
    let reach = 0;
    for (let i = 0; i < n; i++)
      reach = Math.max(reach, Math.hypot(points[3 * i], points[3 * i + 1], points[3 * i + 2]) + radii[i]);
    const palette = colours.values.slice(), known = new Map(palette.map((c, i) => [c, i]));
    const number = (colour) => {
      if (!known.has(colour)) { known.set(colour, palette.length); palette.push(colour); }
      return known.get(colour);
    };
    const sticks = data.sticks.map(([i, j, lines, one, two]) => ({
      i, j, lines, ends: one ? [number(one), number(two)] : [colours.which[i], colours.which[j]],
    }));
    return { points, n, radii, colour: colours.which, palette, sticks, thickness: data.thickness, reach: reach || 1 };
  }

  const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const mixed = (a, b, fraction) => a.map((v, k) => Math.round(v + (b[k] - v) * fraction));

  // The shading of balls of every colour: light from the upper left, a dark rim.
  const shine = (() => {
    const size = 128, canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = canvas.height = size;
    const light = pen.createRadialGradient(size * 0.36, size * 0.32, 0, size * 0.5, size * 0.5, size * 0.5);
    for (const [at, colour] of [[0, "rgba(255,255,255,.75)"], [0.3, "rgba(255,255,255,.2)"], [0.5, "rgba(255,255,255,0)"],
      [0.5, "rgba(0,0,0,0)"], [0.85, "rgba(0,0,0,.28)"], [1, "rgba(0,0,0,.6)"]]) light.addColorStop(at, colour);
    pen.fillStyle = light;
    pen.beginPath(); pen.arc(size / 2, size / 2, size / 2, 0, 7); pen.fill();
    return canvas;
  })();

  const product = (a, b) => START.map((_, k) => {
    const row = 3 * Math.floor(k / 3), column = k % 3;
    return a[row] * b[column] + a[row + 1] * b[column + 3] + a[row + 2] * b[column + 6];
  });
  const turnY = (t) => [Math.cos(t), 0, Math.sin(t), 0, 1, 0, -Math.sin(t), 0, Math.cos(t)];
  const turnX = (t) => [1, 0, 0, 0, Math.cos(t), -Math.sin(t), 0, Math.sin(t), Math.cos(t)];

  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const parts = getComputedStyle(at).backgroundColor.match(/[\d.]+/g);
      if (parts && (parts.length < 4 || Number(parts[3]) > 0)) return parts.slice(0, 3).map(Number);
    }
    return [255, 255, 255];
  };

  // Thousands of balls are drawn pixel by pixel, which is several times as fast as paths.
  function discs(pen, width, height, order, place) {
    const image = pen.createImageData(width, height), pixels = image.data;
    for (const i of order) {
      const [left, top, r, tone] = place(i);
      const low = Math.max(0, Math.floor(left - r - 0.5)), high = Math.min(width - 1, Math.ceil(left + r));
      const last = Math.min(height - 1, Math.ceil(top + r));
      for (let row = Math.max(0, Math.floor(top - r - 0.5)); row <= last; row++) {
        for (let column = low; column <= high; column++) {
          const right = column + 0.5 - left, down = row + 0.5 - top, away = right * right + down * down;
          const cover = r + 0.5 - Math.sqrt(away);
          if (cover <= 0) continue;
          // A shaded ball: the fraction of the light that falls on this pixel.
          const front = Math.sqrt(Math.max(0, 1 - away / (r * r)));
          const light = 0.68 + 0.36 * Math.max(-0.4, 0.6 * front - (0.45 * right + 0.66 * down) / (r + 0.5));
          const at = 4 * (row * width + column), ink = Math.min(1, cover), under = (pixels[at + 3] / 255) * (1 - ink);
          const fraction = ink / (ink + under);
          for (let k = 0; k < 3; k++) pixels[at + k] += (tone[k] * light - pixels[at + k]) * fraction;
          pixels[at + 3] = 255 * (ink + under);
        }
      }
    }
    pen.putImageData(image, 0, 0);
  }

  function draw(view) {
    const { canvas, scene, turn } = view;
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * dense), height = Math.round(canvas.clientHeight * dense);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";  // the image of the shading is scaled down
    pen.clearRect(0, 0, width, height);
    const { points, n, radii, colour, palette, sticks, reach } = scene;
    if (!view.shades) {
      const behind = background(canvas);
      const foggy = (text) => Array.from({ length: SHADES }, (_, k) => mixed(rgb(text), behind, (FOG * k) / (SHADES - 1)));
      view.tones = palette.map(foggy);
      view.shades = view.tones.map((tones) => tones.map((tone) => `rgb(${tone.join(",")})`));
      view.edge = behind[0] + behind[1] + behind[2] > 382 ? "rgba(0,0,0,.45)" : "rgba(255,255,255,.35)";
    }
    const scale = (Math.min(width, height) / 2) * 0.93 * view.zoom / reach, eye = DISTANCE * reach;
    const x = new Float32Array(n), y = new Float32Array(n), z = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const a = points[3 * i], b = points[3 * i + 1], c = points[3 * i + 2];
      x[i] = turn[0] * a + turn[1] * b + turn[2] * c;
      y[i] = turn[3] * a + turn[4] * b + turn[5] * c;
      z[i] = turn[6] * a + turn[7] * b + turn[8] * c;
    }
    const near = (depth) => (scale * eye) / Math.max(eye - depth, 0.1 * reach);
    const shade = (depth) => Math.max(0, Math.min(SHADES - 1, Math.round(((reach - depth) / (2 * reach)) * (SHADES - 1))));

    // Halves of sticks begin at the surface of the ball, so that a stick never covers its own ball.
    const halves = [];
    for (const { i, j, lines, ends } of sticks) {
      const d = [x[j] - x[i], y[j] - y[i], z[j] - z[i]], length = Math.hypot(...d) || 1;
      const wide = scene.thickness * (lines > 1 ? 0.62 : 1), apart = lines > 1 ? scene.thickness * 2.1 : 0;
      for (const [from, way, ink] of [[i, 1, ends[0]], [j, -1, ends[1]]]) {
        const start = Math.min(0.5, (0.9 * radii[from]) / length);
        halves.push({
          depth: z[from] + way * d[2] * (start + 0.5) / 2, ink, wide, apart, lines,
          a: [x[from] + way * d[0] * start, y[from] + way * d[1] * start, z[from] + way * d[2] * start],
          b: [(x[i] + x[j]) / 2, (y[i] + y[j]) / 2, (z[i] + z[j]) / 2], way,
        });
      }
    }
    // The depth in the upper bits and the index in the lower ones: sorting these numbers sorts by depth.
    const steps = (depth) => Math.round(Math.max(0, Math.min(1, (depth + reach) / (2 * reach))) * 1e6) * MOST;
    const keys = Float64Array.from({ length: n + halves.length }, (_, k) => steps(k < n ? z[k] : halves[k - n].depth) + k);
    const order = Uint32Array.from(keys.sort(), (key) => key % MOST);

    if (n > DISCS && !halves.length) {
      discs(pen, width, height, order, (i) => {
        const grow = near(z[i]);
        return [width / 2 + x[i] * grow, height / 2 - y[i] * grow, Math.max(radii[i] * grow, 0.6 * dense), view.tones[colour[i]][shade(z[i])]];
      });
      return;
    }
    const ball = (i) => {
      const grow = near(z[i]), r = Math.max(radii[i] * grow, 0.6 * dense), k = shade(z[i]);
      const left = width / 2 + x[i] * grow, top = height / 2 - y[i] * grow;
      pen.fillStyle = view.shades[colour[i]][k];
      pen.beginPath(); pen.arc(left, top, r, 0, 7); pen.fill();
      if (n > DISCS) return;
      pen.globalAlpha = 1 - (FOG * k) / (SHADES - 1);
      pen.drawImage(shine, left - r, top - r, 2 * r, 2 * r);
      pen.globalAlpha = 1;
    };
    const stick = ({ a, b, depth, ink, wide, apart, lines, way }) => {
      const [p, q] = [a, b].map((at) => { const grow = near(at[2]); return [width / 2 + at[0] * grow, height / 2 - at[1] * grow]; });
      const length = Math.hypot(q[0] - p[0], q[1] - p[1]);
      if (length < 0.05) return;
      const grow = near(depth), across = [(-(q[1] - p[1]) / length) * way, ((q[0] - p[0]) / length) * way];
      for (let line = 0; line < lines; line++) {
        const aside = (line - (lines - 1) / 2) * apart * grow;
        for (const [ink_, fraction] of [[view.edge, 1], [view.shades[ink][shade(depth)], 0.7]]) {
          pen.strokeStyle = ink_;
          pen.lineWidth = 2 * wide * grow * fraction;
          pen.beginPath();
          pen.moveTo(p[0] + across[0] * aside, p[1] + across[1] * aside);
          pen.lineTo(q[0] + across[0] * aside, q[1] + across[1] * aside);
          pen.stroke();
        }
      }
    };
    for (const k of order) if (k < n) ball(k); else stick(halves[k - n]);
  }

  const waiting = new Set(), shown = new Set();
  let scheduled = false;
  function later(view) {
    waiting.add(view);
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      for (const view of [...waiting]) if (shown.has(view)) { waiting.delete(view); draw(view); }
    });
  }
  const views = new Map();
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const view = views.get(target);
      if (isIntersecting) { shown.add(view); if (waiting.has(view)) later(view); } else shown.delete(view);
    }
  }, { rootMargin: "200px" });
  const sized = new ResizeObserver((entries) => { for (const { target } of entries) later(views.get(target)); });
  const recolour = () => { for (const view of views.values()) { view.shades = null; later(view); } };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", () => { for (const view of waiting) { draw(view); waiting.delete(view); } });

  function listen(view) {
    const { canvas } = view, pointers = new Map();
    const turned = (right, down) => { view.turn = product(product(turnX(down), turnY(right)), view.turn); later(view); };
    const zoomed = (factor) => { view.zoom = Math.max(0.2, Math.min(20, view.zoom * factor)); later(view); };
    const reset = () => { view.turn = START; view.zoom = 1; later(view); };
    const gap = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]) || 1; };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY], wide = pointers.size === 2 ? gap() : 0;
      pointers.set(event.pointerId, now);
      if (wide) { zoomed(gap() / wide); return; }
      const pace = Math.PI / Math.max(canvas.clientWidth, 120);
      turned((now[0] - before[0]) * pace, (now[1] - before[1]) * pace);
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return;  // the wheel scrolls the page until a scene has the focus
      event.preventDefault();
      zoomed(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * 0.004));
    }, { passive: false });
    canvas.addEventListener("dblclick", reset);
    const keys = {
      ArrowLeft: () => turned(-0.15, 0), ArrowRight: () => turned(0.15, 0), ArrowUp: () => turned(0, -0.15),
      ArrowDown: () => turned(0, 0.15), "+": () => zoomed(1.15), "=": () => zoomed(1.15), "-": () => zoomed(1 / 1.15), Home: reset,
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  // Scenes added to the page since the last call. They are parsed when they first become visible.
  window.diffcoreScenes = () => {
    for (const [canvas, view] of views) {
      if (canvas.isConnected) continue;
      seen.unobserve(canvas); sized.unobserve(canvas);
      views.delete(canvas); shown.delete(view); waiting.delete(view);
    }
    for (const canvas of document.querySelectorAll("canvas[data-scene]")) {
      if (views.has(canvas)) continue;
      const view = { canvas, turn: START, zoom: 1, shades: null, get scene() {
        const scene = read(canvas.dataset.scene);
        Object.defineProperty(view, "scene", { value: scene });
        return scene;
      } };
      views.set(canvas, view);
      listen(view);
      seen.observe(canvas);
      sized.observe(canvas);
      later(view);
    }
  };
  window.diffcoreScenes();
  addEventListener("DOMContentLoaded", window.diffcoreScenes);
})();
