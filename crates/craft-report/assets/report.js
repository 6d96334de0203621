"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const rewards = data.rewards, models = data.models, pairs = data.pairs, prompts = data.prompts;
  const indexOf = new Map(rewards.map((r, i) => [r.name, i]));

  // Small helpers. Text always goes through textContent.
  function el(tag, attrs, ...children) {
    const node = document.createElement(tag);
    for (const [k, v] of Object.entries(attrs || {})) {
      if (v === null || v === undefined || v === false) continue;
      if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
      else node.setAttribute(k, v === true ? "" : v);
    }
    for (const c of children.flat()) if (c !== null && c !== undefined) node.append(c);
    return node;
  }
  function num(v) {
    if (v === null || v === undefined) return "–";
    const a = Math.abs(v);
    const t = a < 1e-12 ? "0" : a >= 1000 ? v.toFixed(0) : a >= 100 ? v.toFixed(1) : a >= 1 ? v.toFixed(2) : a >= 0.01 ? v.toFixed(3) : a >= 0.001 ? v.toFixed(4) : a >= 1e-4 ? v.toFixed(5) : v.toExponential(1);
    return t.replace("-", "−");
  }
  const signed = (v) => (v > 0 ? "+" : "") + num(v);
  const value = (pair, model, r) => (pair.v[model] ? pair.v[model][r] : null);
  function delta(pair, r, model) {
    const b = value(pair, "base", r), t = value(pair, model || "tuned", r);
    return b === null || t === null || b === undefined || t === undefined ? null : t - b;
  }
  function picture(src, alt) {
    if (!src) return el("div", { class: "none", role: "img", "aria-label": alt + ": no picture" }, "no picture");
    const img = el("img", { src, alt, loading: "lazy", decoding: "async" });
    img.addEventListener("load", () => { if (img.naturalWidth <= 128) img.classList.add("small"); });
    img.addEventListener("error", () => img.replaceWith(el("div", { class: "none" }, "no picture")));
    return img;
  }
  function deltaChip(d) {
    if (d === null) return el("span", { class: "delta" }, "no change known");
    return el("span", { class: "delta " + (d > 0 ? "up" : d < 0 ? "down" : "") }, (d > 0 ? "▲ " : d < 0 ? "▼ " : "") + signed(d));
  }

  // Colours: automatic, light, dark.
  (function theme() {
    const button = $("theme"), order = ["auto", "light", "dark"];
    let now = "auto";
    try { now = localStorage.getItem("craft-theme") || "auto"; } catch (_) { /* storage may be closed for files */ }
    function set(t) {
      now = order.includes(t) ? t : "auto";
      if (now === "auto") document.documentElement.removeAttribute("data-theme");
      else document.documentElement.setAttribute("data-theme", now);
      button.textContent = "Colours: " + now;
      try { localStorage.setItem("craft-theme", now); } catch (_) { /* same */ }
    }
    const asked = new URLSearchParams(location.search).get("theme");
    set(asked || now);
    button.addEventListener("click", () => set(order[(order.indexOf(now) + 1) % 3]));
  })();

  // Which section is on screen.
  if ("IntersectionObserver" in window) {
    const links = new Map([...document.querySelectorAll(".top nav a")].map((a) => [a.hash.slice(1), a]));
    const seen = new IntersectionObserver((entries) => {
      for (const e of entries) if (e.isIntersecting) {
        links.forEach((a) => a.classList.remove("here"));
        if (links.has(e.target.id)) links.get(e.target.id).classList.add("here");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    document.querySelectorAll("main section").forEach((s) => seen.observe(s));
  }

  // Gallery.
  const gallery = (function () {
    const grid = $("g-grid");
    if (!grid) return null;
    const PAGE = 12;
    let order = "worst", shown = PAGE, list = [], seed = 1, at = -1, flip = null;

    function random(i) { // a fixed scramble of the index, changed by `seed`
      let x = (i + 1) * 2654435761 + seed * 40503;
      x ^= x >>> 15; x = Math.imul(x, 2246822519); x ^= x >>> 13;
      return x >>> 0;
    }
    const reward = () => indexOf.get($("g-reward").value) || 0;
    function sort() {
      const r = reward(), words = $("g-text").value.toLowerCase().split(/\s+/).filter(Boolean);
      list = pairs.map((p, i) => i).filter((i) => {
        const text = (pairs[i].t + " " + pairs[i].p + " " + (pairs[i].c || "")).toLowerCase();
        return words.every((w) => text.includes(w));
      });
      const key = (i) => delta(pairs[i], r);
      const known = (a, b) => (key(a) === null) - (key(b) === null);
      if (order === "best") list.sort((a, b) => known(a, b) || key(b) - key(a) || a - b);
      if (order === "worst") list.sort((a, b) => known(a, b) || key(a) - key(b) || a - b);
      if (order === "random") list.sort((a, b) => random(a) - random(b));
    }
    function card(i, place) {
      const p = pairs[i], r = reward();
      const node = el("article", { class: "pair", tabindex: place === 0 ? "0" : "-1", "data-place": place, "aria-label": p.t + ", sample " + p.s },
        el("header", {}, el("span", { class: "text" }, p.t), deltaChip(delta(p, r))),
        el("div", { class: "shots" }, models.map((m) => el("figure", { class: "shot " + m }, picture(p.i[m], m + ": " + p.t), el("figcaption", {}, m + " ", el("b", {}, num(value(p, m, r))))))),
        el("span", { class: "meta" }, p.p + " · seed " + p.s + (p.c ? " · " + p.c : "") + factWords(p)));
      return node;
    }
    function factWords(p) {
      if (!p.f) return "";
      const n = (k) => p.f.filter((f) => f[k]).length;
      return " · facts right: base " + n(2) + ", tuned " + n(3) + " of " + p.f.length;
    }
    function draw(keep) {
      if (!keep) shown = PAGE;
      sort();
      grid.replaceChildren(...list.slice(0, shown).map(card));
      $("g-count").textContent = Math.min(shown, list.length) + " of " + list.length + " pairs";
      $("g-more").parentElement.hidden = shown >= list.length;
    }
    function focus(place) {
      const cards = grid.children;
      if (place < 0) return;
      if (place >= cards.length && shown < list.length) { more(); }
      if (place >= cards.length) return;
      for (const c of cards) c.tabIndex = -1;
      cards[place].tabIndex = 0;
      cards[place].focus();
    }
    function more() {
      const from = shown;
      shown += PAGE;
      grid.append(...list.slice(from, shown).map((i, k) => card(i, from + k)));
      $("g-count").textContent = Math.min(shown, list.length) + " of " + list.length + " pairs";
      $("g-more").parentElement.hidden = shown >= list.length;
    }
    function columns() {
      const cards = [...grid.children];
      const below = cards.findIndex((c) => c.offsetTop > cards[0].offsetTop);
      return below < 0 ? cards.length : below;
    }
    grid.addEventListener("keydown", (e) => {
      const place = Number(e.target.dataset.place);
      if (Number.isNaN(place)) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[e.key];
      if (step) { e.preventDefault(); focus(place + step); }
      else if (e.key === "Home") { e.preventDefault(); focus(0); }
      else if (e.key === "End") { e.preventDefault(); focus(grid.children.length - 1); }
      else if (e.key === "Enter" || e.key === " ") { e.preventDefault(); open(place); }
    });
    grid.addEventListener("click", (e) => {
      const node = e.target.closest(".pair");
      if (node) open(Number(node.dataset.place));
    });
    $("g-reward").addEventListener("change", () => draw());
    $("g-text").addEventListener("input", () => draw());
    $("g-more").addEventListener("click", () => { const place = shown; more(); focus(place); });
    $("g-order").addEventListener("click", (e) => {
      const b = e.target.closest("button");
      if (!b) return;
      if (b.dataset.order === "random") seed += 1;
      order = b.dataset.order;
      for (const o of $("g-order").children) o.setAttribute("aria-pressed", String(o === b));
      draw();
    });

    // One pair in large.
    const viewer = $("viewer");
    function open(place) { at = place; flip = null; fill(); if (!viewer.open) viewer.showModal(); }
    function openPair(index) {
      let place = list.indexOf(index);
      if (place < 0) { $("g-text").value = ""; draw(true); place = list.indexOf(index); }
      if (place >= 0) open(place);
    }
    function move(step) { if (at + step >= 0 && at + step < list.length) { at += step; fill(); } }
    function turn() { flip = flip === null ? "base" : flip === "base" ? "tuned" : "base"; fill(); }
    function fill() {
      const p = pairs[list[at]], r = reward();
      const held = viewer.contains(document.activeElement) ? document.activeElement.title : null;
      const visible = flip === null ? models : [flip];
      const shots = el("div", { class: "shots" + (flip ? " flip" : "") }, visible.map((m) =>
        el("figure", { class: "shot " + m }, picture(p.i[m], m + ": " + p.t), el("figcaption", {}, m + " ", el("b", {}, num(value(p, m, r)))))));
      const head = el("tr", {}, el("th", {}, "reward"), models.map((m) => el("th", { class: "n" }, m)), el("th", { class: "n" }, "tuned − base"));
      const rows = rewards.map((w, k) => models.some((m) => value(p, m, k) !== null) ? el("tr", {},
        el("th", { scope: "row" }, w.name + " ", el("span", { class: "badge " + w.role }, w.words)),
        models.map((m) => el("td", { class: "n" }, num(value(p, m, k)))), el("td", { class: "n" }, deltaChip(delta(p, k)))) : null);
      const under = el("div", { class: "under" }, el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
      if (p.f) {
        const mark = (v) => v === null ? el("td", {}, "–") : el("td", { class: v ? "yes" : "no" }, v ? "✓ right" : "✗ wrong");
        under.append(el("div", { class: "scroll" }, el("table", { class: "facts" },
          el("thead", {}, el("tr", {}, el("th", {}, "fact"), models.map((m) => el("th", {}, m)))),
          el("tbody", {}, p.f.map((f) => el("tr", {}, el("th", { scope: "row" }, f[1]), models.map((m) => mark(f[{ base: 2, tuned: 3, control: 4 }[m]]))))))));
      }
      const button = (text, title, act) => el("button", { type: "button", title, onclick: act }, text);
      viewer.replaceChildren(
        el("div", { class: "bar-top" }, el("span", { class: "text" }, p.t), el("span", { class: "fine" }, p.p + " · seed " + p.s + " · " + (at + 1) + " of " + list.length),
          button("←", "previous (left arrow)", () => move(-1)), button("→", "next (right arrow)", () => move(1)),
          button(flip === null ? "Flip (F)" : "Showing " + flip + " (F)", "flip base and tuned in place", turn),
          flip === null ? null : button("Side by side", "all models", () => { flip = null; fill(); }),
          button("Close", "close (Escape)", () => viewer.close())),
        shots, under);
      // The buttons were replaced: keep the focus inside, or the arrow keys would go nowhere.
      const again = [...viewer.querySelectorAll("button")].find((b) => b.title === held);
      if (viewer.open) (again || viewer).focus();
    }
    viewer.addEventListener("keydown", (e) => {
      if (e.key === "ArrowRight" || e.key === "ArrowDown") { e.preventDefault(); move(1); }
      else if (e.key === "ArrowLeft" || e.key === "ArrowUp") { e.preventDefault(); move(-1); }
      else if (e.key === "f" || e.key === "F") { e.preventDefault(); turn(); }
    });
    viewer.addEventListener("click", (e) => { if (e.target === viewer) viewer.close(); });
    viewer.addEventListener("close", () => { viewer.replaceChildren(); if (at < grid.children.length) focus(at); });
    draw();
    return { openPair };
  })();

  // Bars and points of the charts lead to pictures.
  document.addEventListener("click", (e) => {
    if (!gallery || !(e.target instanceof Element)) return;
    const mark = e.target.closest("[data-pair], [data-prompt]");
    if (!mark) return;
    const index = mark.dataset.pair !== undefined ? Number(mark.dataset.pair) : pairs.findIndex((p) => p.p === mark.dataset.prompt);
    if (index >= 0) gallery.openPair(index);
  });

  // Links to one pair: #pair=p00100/0
  const linked = /^#pair=(.+)\/(\d+)$/.exec(decodeURIComponent(location.hash));
  if (gallery && linked) {
    const index = pairs.findIndex((p) => p.p === linked[1] && p.s === Number(linked[2]));
    if (index >= 0) gallery.openPair(index);
  }

  // Every candidate of every training prompt.
  (function drill() {
    const list = $("d-list"), detail = $("d-detail");
    if (!list) return;
    let current = null;
    const judged = (p) => p.c.filter((c) => c.ok !== undefined);
    const counts = (p) => ({ judged: judged(p).length, passed: p.c.filter((c) => c.ok).length, selected: p.c.filter((c) => c.sel).length });
    function visible() {
      const words = $("d-text").value.toLowerCase().split(/\s+/).filter(Boolean), show = $("d-show").value;
      return prompts.filter((p) => {
        const n = counts(p), text = (p.t + " " + p.p + " " + (p.k || "")).toLowerCase();
        const kept = show === "all" || (show === "selected" && n.selected > 0) || (show === "passed" && n.passed > 0) || (show === "none" && n.passed === 0);
        return kept && words.every((w) => text.includes(w));
      });
    }
    function draw() {
      const rows = visible();
      $("d-count").textContent = rows.length + " of " + prompts.length + " prompts";
      list.replaceChildren(...rows.map((p) => {
        const n = counts(p);
        const words = n.judged ? n.passed + " of " + n.judged + " passed, " + n.selected + " selected" : p.c.length + " candidates";
        return el("li", {}, el("button", { type: "button", "data-id": p.p, "aria-current": String(p.p === current), onclick: () => choose(p) }, p.t, el("small", {}, p.p + " · " + words)));
      }));
      if (rows.length && !rows.some((p) => p.p === current)) choose(rows[0]);
      if (!rows.length) { current = null; detail.replaceChildren(el("p", { class: "absent" }, "No prompt fits.")); }
    }
    function choose(p) {
      current = p.p;
      for (const b of list.querySelectorAll("button")) b.setAttribute("aria-current", String(b.dataset.id === current));
      const original = p.c.find((c) => c.v === 0);
      detail.replaceChildren(el("h3", {}, p.t), el("p", { class: "fine" }, p.p + (p.k ? " · " + p.k : "") + " · " + p.c.length + " candidates; differences are against the original wording's picture"),
        el("div", { class: "cands" }, p.c.map((c) => candidate(c, original))));
    }
    function candidate(c, original) {
      const tags = [];
      if (c.v === 0) tags.push(el("span", { class: "chip" }, "original"));
      if (c.sel) tags.push(el("span", { class: "chip good" }, "✓ selected"));
      else if (c.ok) tags.push(el("span", { class: "chip amber" }, "passed, not selected"));
      else if (c.ok === false) tags.push(el("span", { class: "chip bad" }, "✗ fell"));
      else if (c.v !== 0) tags.push(el("span", { class: "chip" }, "not judged"));
      if (c.ctl) tags.push(el("span", { class: "chip" }, "in the control"));
      const rows = rewards.map((r, k) => {
        const v = c.r ? c.r[k] : null, o = original && original.r ? original.r[k] : null;
        const missing = c.m && c.m[r.name];
        if (v === null && !missing) return null;
        const by = c.by ? c.by[r.name] : undefined;
        return el("tr", { title: missing || null }, el("th", { scope: "row" }, r.name), el("td", { class: "n" }, missing ? "missing" : num(v)),
          el("td", { class: "n" }, c.v === 0 || v === null || o === null ? "" : signed(v - o)),
          el("td", { class: by === undefined ? "" : by ? "yes" : "no" }, by === undefined ? "" : by ? "✓" : "✗"));
      });
      const sums = [["composite", c.tot], ["advantage", c.adv], ["weight", c.w]].filter((s) => s[1] !== null && s[1] !== undefined)
        .map((s) => el("tr", {}, el("th", { scope: "row" }, s[0]), el("td", { class: "n" }, num(s[1])), el("td"), el("td")));
      const missing = c.m ? Object.entries(c.m).map(([k, v]) => el("p", { class: "why" }, k + ": " + v)) : [];
      return el("article", { class: "cand" + (c.sel ? " sel" : "") + (c.v === 0 ? " orig" : ""), "aria-label": c.id }, picture(c.i, c.t || c.id), el("div", { class: "tags" }, tags),
        el("p", {}, c.t), c.why ? el("p", { class: "why" }, c.why) : null, missing,
        el("table", {}, el("tbody", {}, rows, sums)), el("span", { class: "fine" }, c.id));
    }
    $("d-text").addEventListener("input", draw);
    $("d-show").addEventListener("change", draw);
    list.addEventListener("keydown", (e) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (!step) return;
      const buttons = [...list.querySelectorAll("button")], next = buttons[buttons.indexOf(document.activeElement) + step];
      if (next) { e.preventDefault(); next.focus(); next.click(); }
    });
    draw();
  })();
})();
