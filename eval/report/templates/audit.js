"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const store = "prompter-audit-" + data.audit;
  const NAMES = Object.keys(data.verdicts);
  let decisions = {};
  let here = 0;

  // Decisions live in this browser until they are exported; some browsers keep nothing for files.
  try {
    decisions = JSON.parse(localStorage.getItem(store) || "{}");
    localStorage.setItem(store, JSON.stringify(decisions));
  } catch (error) {
    warn("This browser keeps nothing for this page: export your decisions before you close it.");
  }

  function warn(text) {
    byId("warning").textContent = text;
    byId("warning").hidden = false;
  }

  function save() {
    try {
      localStorage.setItem(store, JSON.stringify(decisions));
    } catch (error) {
      warn("Decisions cannot be kept in this browser: export them before you close the page.");
    }
  }

  const decided = (entry) => Boolean((decisions[entry.sample_id] || {}).verdict);

  function drawStrip() {
    const strip = byId("strip");
    strip.replaceChildren();
    data.entries.forEach((entry, number) => {
      const button = document.createElement("button");
      const verdict = (decisions[entry.sample_id] || {}).verdict || "";
      button.textContent = entry.rank;
      button.title = entry.query;
      button.className = verdict + (number === here ? " here" : "");
      button.addEventListener("click", () => go(number));
      strip.append(button);
    });
    const done = data.entries.filter(decided).length;
    byId("done").style.width = (100 * done) / Math.max(1, data.entries.length) + "%";
    byId("count").textContent = done + " of " + data.entries.length + " decided";
  }

  function path(d, layer, dark) {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", d);
    shape.dataset.layer = layer.name;
    if (dark) {
      shape.setAttribute("class", "case");
      shape.setAttribute("stroke-width", "4.5");
    } else {
      shape.setAttribute("stroke", layer.colour);
      shape.setAttribute("fill", layer.colour);
      shape.setAttribute("fill-opacity", layer.fill);
      shape.setAttribute("stroke-width", "2.5");
      if (layer.dash) shape.setAttribute("stroke-dasharray", layer.dash);
    }
    return shape;
  }

  function show() {
    const entry = data.entries[here];
    byId("desk").hidden = !entry;
    if (!entry) return;
    const decision = decisions[entry.sample_id] || {};
    byId("image").src = data.images[entry.image];
    byId("picture").style.width = Math.min(760, (720 * entry.wh[0]) / entry.wh[1]) + "px";
    const shapes = byId("shapes");
    shapes.setAttribute("viewBox", "0 0 " + entry.wh[0] + " " + entry.wh[1]);
    shapes.replaceChildren();
    for (const layer of data.layers) {
      const d = entry.paths[layer.name];
      if (d && !layer.dash) shapes.append(path(d, layer, true)); // a dashed line lets the one below show
      if (d) shapes.append(path(d, layer, false));
    }
    byId("rank").textContent = "no. " + entry.rank + " of " + data.queries;
    byId("kind").textContent = entry.kind;
    byId("because").textContent = entry.because;
    byId("sample").textContent = entry.sample_id;
    byId("query").textContent = entry.query;
    const facts = byId("facts");
    facts.replaceChildren();
    for (const [name, value] of entry.facts) {
      const row = facts.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
    }
    for (const button of document.querySelectorAll("[data-verdict]")) {
      const name = button.dataset.verdict;
      button.classList.toggle("chosen", decision.verdict === name);
      button.disabled = !entry.offers.includes(name);
    }
    byId("note").value = decision.note || "";
    layersShown();
    drawStrip();
  }

  function layersShown() {
    for (const box of document.querySelectorAll("input[data-layer]")) {
      for (const shape of document.querySelectorAll('path[data-layer="' + box.dataset.layer + '"]')) {
        shape.style.display = box.checked ? "" : "none";
      }
    }
  }

  function go(number) {
    here = Math.max(0, Math.min(data.entries.length - 1, number));
    show();
  }

  function step(by) {
    let number = here + by;
    if (byId("open-only").checked) {
      while (data.entries[number] && decided(data.entries[number])) number += by;
      if (!data.entries[number]) number = here;
    }
    go(number);
  }

  function decide(verdict) {
    const entry = data.entries[here];
    if (!entry || !entry.offers.includes(verdict)) return;
    const note = byId("note").value.trim();
    decisions[entry.sample_id] = { verdict, note, at: new Date().toISOString() };
    save();
    step(1);
  }

  function undecide() {
    delete decisions[data.entries[here].sample_id];
    save();
    show();
  }

  function exportDecisions() {
    const found = data.entries
      .filter(decided)
      .map((entry) => ({ sample_id: entry.sample_id, ...decisions[entry.sample_id] }));
    const text = JSON.stringify({ audit: data.audit, benchmark: data.benchmark, decisions: found }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = "decisions.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  async function importDecisions(file) {
    try {
      const read = JSON.parse(await file.text());
      if (read.audit !== data.audit) throw new Error("it is about another audit, " + read.audit);
      for (const one of read.decisions) {
        if (!NAMES.includes(one.verdict)) throw new Error("unknown verdict " + one.verdict);
        decisions[one.sample_id] = { verdict: one.verdict, note: one.note || "", at: one.at || "" };
      }
      save();
      show();
    } catch (error) {
      warn(file.name + " was not read: " + error.message);
    }
  }

  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => decide(button.dataset.verdict));
  }
  for (const box of document.querySelectorAll("input[data-layer]")) box.addEventListener("change", layersShown);
  byId("back").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("clear").addEventListener("click", undecide);
  byId("export").addEventListener("click", exportDecisions);
  byId("import").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    if (event.target.files[0]) importDecisions(event.target.files[0]);
    event.target.value = "";
  });
  byId("note").addEventListener("input", () => {
    const name = data.entries[here].sample_id;
    decisions[name] = { ...decisions[name], note: byId("note").value.trim() };
    if (!decisions[name].verdict && !decisions[name].note) delete decisions[name];
    save();
  });

  document.addEventListener("keydown", (event) => {
    if (event.target.id === "note") {
      if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
        event.target.blur();
        event.preventDefault();
      }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const verdict = NAMES.find((name) => data.verdicts[name] === event.key);
    const layer = data.layers.find((one) => one.key === event.key);
    if (verdict) decide(verdict);
    else if (layer) {
      const box = document.querySelector('input[data-layer="' + layer.name + '"]');
      if (box) {
        box.checked = !box.checked;
        layersShown();
      }
    } else if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "x") undecide();
    else if (event.key === "e") exportDecisions();
    else if (event.key === "n") byId("note").focus();
    else return;
    event.preventDefault();
  });

  const first = data.entries.findIndex((entry) => !decided(entry));
  go(first < 0 ? 0 : first);
})();
