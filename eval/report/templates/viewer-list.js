// The list of groups, of which only the rows in sight are in the page, and the filters above it.

const ROW = 58;

const number = (value, digits = 3) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits));
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(2);
const counted = (value, what) => value.toLocaleString("en") + " " + what + (value === 1 ? "" : "s");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function option(parent, value, text) {
  const made = element("option", "", text);
  made.value = value;
  parent.append(made);
  return made;
}

const ORDERS = {
  order: { text: "in order", key: "", sign: 1 },
  worst: { text: "worst first", key: "mean", sign: 1 },
  best: { text: "best first", key: "mean", sign: -1 },
  spread: { text: "largest spread", key: "spread", sign: -1 },
  gained: { text: "most gained, first to last", key: "gain", sign: -1 },
  lost: { text: "most lost, first to last", key: "gain", sign: 1 },
};

// Fill the choices from the index; what there is nothing to choose from stays hidden.
function offerFilters(index, sums, pairs) {
  const { outcome } = index.rollouts;
  const sides = index.labels.some((label) => !/^\d+$/.test(label)) && sums.gain.some((value) => value);
  for (const [name, one] of Object.entries(ORDERS)) {
    if (sides || one.key !== "gain") option(byId("f-order"), name, one.text);
  }
  const counts = new Array(index.outcomes.length).fill(0);
  for (const code of outcome) counts[code]++;
  const failed = counts.slice(index.firstFailure).reduce((sum, one) => sum + one, 0);
  option(byId("f-outcome"), "", "any answer");
  if (failed) option(byId("f-outcome"), "failed", "cannot be read (" + failed.toLocaleString("en") + ")");
  counts.forEach((count, code) => {
    if (!count || code === 0) return;
    const names = { no_target: "says: no target", executor_failed: "segmenter failed" };
    const text = names[index.outcomes[code]] || "cannot be read: " + index.outcomes[code].replaceAll("_", " ");
    option(byId("f-outcome"), code, text + " (" + count.toLocaleString("en") + ")");
  });
  option(byId("f-outcome"), "refused", "declines a target that is there");
  option(byId("f-outcome"), "invented", "answers where nothing fits");
  option(byId("f-tag"), "", "any category");
  const found = new Map();
  index.groups.tags.forEach((set) => {
    for (const [key, value] of Object.entries(index.tagSets[set])) {
      if (!found.has(key)) found.set(key, new Map());
      found.get(key).set(value, (found.get(key).get(value) || 0) + 1);
    }
  });
  for (const [key, values] of found) {
    if (values.size > 60) continue;
    const group = element("optgroup");
    group.label = key;
    for (const [value, count] of [...values].sort((one, other) => other[1] - one[1])) {
      option(group, pairs.length, value + " (" + count.toLocaleString("en") + ")");
      pairs.push([key, value]);
    }
    byId("f-tag").append(group);
  }
  byId("f-tag").hidden = !pairs.length;
  option(byId("f-part"), "", "everything");
  index.parts.forEach((part, place) => option(byId("f-part"), place, part));
  byId("f-part").hidden = index.parts.length < 2;
  const steps = index.groups.step.filter((step) => step >= 0);
  byId("f-steps").hidden = !steps.length;
  if (steps.length) {
    const [low, high] = steps.reduce(([a, b], step) => [Math.min(a, step), Math.max(b, step)], [Infinity, 0]);
    for (const [id, value] of [["f-from", low], ["f-to", high]]) {
      Object.assign(byId(id), { min: low, max: high, placeholder: value });
    }
  }
}

// The filter that the controls say.
function readFilter(index, sums, pairs) {
  const { groups, rollouts } = index;
  const words = byId("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const pair = pairs[byId("f-tag").value];
  const part = byId("f-part").value;
  const from = byId("f-from").value === "" ? -Infinity : Number(byId("f-from").value);
  const to = byId("f-to").value === "" ? Infinity : Number(byId("f-to").value);
  const stepped = from > -Infinity || to < Infinity;
  const meant = byId("f-outcome").value;
  const [answered, declined] = [index.outcomes.indexOf("targets"), index.outcomes.indexOf("no_target")];
  const rules = {
    failed: (row) => rollouts.outcome[row] >= index.firstFailure,
    refused: (row, group) => rollouts.outcome[row] === declined && groups.target[group],
    invented: (row, group) => rollouts.outcome[row] === answered && !groups.target[group],
  };
  return {
    order: ORDERS[byId("f-order").value],
    rollout: meant === "" ? null : rules[meant] || ((row) => rollouts.outcome[row] === Number(meant)),
    group: (group) =>
      (part === "" || groups.part[group] === Number(part)) &&
      (!stepped || (groups.step[group] >= Math.max(from, 0) && groups.step[group] <= to)) &&
      (!pair || index.tagSets[groups.tags[group]][pair[0]] === pair[1]) &&
      words.every((word) => sums.text[group].includes(word)),
  };
}

// What became of a rollout, in a word or two; "" for an answer like any other.
function remark(index, row) {
  const code = index.rollouts.outcome[row];
  if (code >= index.firstFailure) return index.outcomes[code].replaceAll("_", " ");
  return { no_target: "no target", executor_failed: "segmenter failed" }[index.outcomes[code]] || "";
}

class GroupList {
  constructor(index, sums, choose) {
    Object.assign(this, { index, sums, choose, shown: [], rows: new Map(), here: -1 });
    this.box = byId("groups");
    this.space = element("div", "space");
    this.box.append(this.space);
    const values = index.rollouts.reward.filter((value) => value !== null);
    this.low = values.reduce((low, value) => Math.min(low, value), 0);
    this.high = values.reduce((high, value) => Math.max(high, value), 1);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  show(groups) {
    this.shown = groups;
    this.space.style.height = groups.length * ROW + "px";
    this.space.replaceChildren();
    this.rows.clear();
    this.box.scrollTop = 0;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const last = Math.min(this.shown.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 4);
    for (const [place, row] of this.rows) {
      if (place >= first && place < last) continue;
      row.remove();
      this.rows.delete(place);
    }
    for (let place = first; place < last; place++) {
      if (this.rows.has(place)) continue;
      const row = this.row(place);
      this.rows.set(place, row);
      this.space.append(row);
    }
  }

  row(place) {
    const { index, sums } = this;
    const group = this.shown[place];
    const { groups, rollouts } = index;
    const row = element("button", "row" + (place === this.here ? " here" : ""));
    row.type = "button";
    row.tabIndex = -1;
    row.style.top = place * ROW + "px";
    row.append(element("span", "asked", index.queries[groups.query[group]]));
    row.append(element("b", "", number(sums.mean[group], 2)));
    const said = [];
    if (groups.step[group] >= 0) said.push("step " + groups.step[group]);
    else if (index.parts.length > 1) said.push(index.parts[groups.part[group]]);
    let bad = 0;
    for (let one = sums.first[group]; one < sums.first[group + 1]; one++) bad += rollouts.outcome[one] >= index.firstFailure;
    if (bad) said.push(bad + " unreadable");
    if (!groups.target[group]) said.push("nothing fits");
    row.append(element("small", "", said.join(" · ") || groups.sample[group]));
    const strip = element("i", "strip");
    for (let one = sums.first[group]; one < sums.first[group + 1]; one++) {
      if (rollouts.reward[one] === null) continue;
      const mark = element("i", rollouts.outcome[one] >= index.firstFailure ? "failed" : "");
      mark.style.left = (100 * (rollouts.reward[one] - this.low)) / (this.high - this.low) + "%";
      strip.append(mark);
    }
    row.append(strip);
    row.addEventListener("click", () => this.choose(place));
    return row;
  }

  mark(place) {
    if (this.rows.has(this.here)) this.rows.get(this.here).classList.remove("here");
    this.here = place;
    const top = place * ROW;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = top + ROW - this.box.clientHeight;
    }
    this.draw();
    if (this.rows.has(place)) this.rows.get(place).classList.add("here");
  }
}
