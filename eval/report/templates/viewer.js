// The group that is looked at, what is chosen in it, the keyboard and the tabs.

const LAYERS = { t: "true", p: "predicted", b: "prompts", i: "image" };

async function openViewer() {
  const index = await unpacked("rollout-index");
  const sums = summed(index);
  const pairs = [];
  const layers = { true: true, predicted: true, prompts: true, image: true };
  const state = { place: -1, group: -1, member: 0, zoomed: false, filter: null, scene: null, answers: [] };
  const list = new GroupList(index, sums, (place) => go(place));
  let asked = 0;

  // Narrow the list and go to its first group, or stay with the one that is looked at.
  function refilter(stay) {
    const begun = performance.now();
    state.filter = readFilter(index, sums, pairs);
    const found = chosenGroups(index, sums, state.filter);
    const rollouts = found.reduce((sum, group) => sum + index.groups.size[group], 0);
    byId("found").textContent = counted(found.length, "group") + ", " + counted(rollouts, "rollout");
    byId("nothing").hidden = found.length > 0;
    byId("group").hidden = !found.length;
    list.here = -1;
    list.show(found);
    document.documentElement.dataset.filterMs = (performance.now() - begun).toFixed(2);
    state.place = -1;
    if (found.length) return go(stay === true ? Math.max(0, found.indexOf(state.group)) : 0);
    state.group = -1;
    return Promise.resolve();
  }

  async function go(place) {
    const wanted = Math.max(0, Math.min(list.shown.length - 1, place));
    if (!list.shown.length || wanted === state.place) return;
    state.place = wanted;
    list.mark(wanted);
    const group = list.shown[wanted];
    const ticket = ++asked;
    if (group !== state.group || !state.scene) {
      state.group = group;
      state.scene = null;
      document.documentElement.dataset.busy = "";
      const read = await readGroup(group);
      if (ticket !== asked) return; // another one was asked for meanwhile
      Object.assign(state, read);
    }
    state.member = bestMember(group);
    drawFacts(group);
    drawCards(group);
    choose(state.member);
    if (!byId("tab-rollouts").hidden) location.replace("#rollouts/" + group);
    delete document.documentElement.dataset.busy;
  }

  async function readGroup(group) {
    const { groups } = index;
    const image = groups.image[group];
    const [piece, picture] = await Promise.all([
      pieceOf(Math.floor(group / index.perPiece)),
      index.hasImage[image] ? imageOf(image) : null,
    ]);
    const told = piece[group % index.perPiece];
    const [width, height] = [groups.width[group], groups.height[group]];
    const mask = (text) => (text ? readMask(text, width, height) : null);
    return {
      scene: { width, height, image: picture, target: mask(told.target), boxes: told.boxes },
      answers: told.members.map((one) => ({ ...one, prompts: one.prompts || [], mask: mask(one.mask) })),
    };
  }

  // The first rollout that the filter means; else the first.
  function bestMember(group) {
    if (!state.filter.rollout) return 0;
    for (let row = sums.first[group]; row < sums.first[group + 1]; row++) {
      if (state.filter.rollout(row, group)) return row - sums.first[group];
    }
    return 0;
  }

  function drawFacts(group) {
    const { groups } = index;
    byId("query").textContent = index.queries[groups.query[group]];
    const chips = [index.parts[groups.part[group]]];
    if (groups.step[group] >= 0) chips.push("step " + groups.step[group]);
    for (const [key, value] of Object.entries(index.tagSets[groups.tags[group]])) chips.push(key + ": " + value);
    chips.push(groups.sample[group], groups.width[group] + " × " + groups.height[group]);
    byId("chips").replaceChildren(...chips.map((text) => element("i", "", text)));
    const what = index.earned ? "reward" : "IoU";
    const facts = [["mean " + what, number(sums.mean[group])]];
    if (groups.size[group] > 1) facts.push(["spread", number(sums.spread[group])]);
    facts.push(["group", (state.place + 1).toLocaleString("en") + " of " + list.shown.length.toLocaleString("en")]);
    byId("facts").replaceChildren(
      ...facts.map(([name, value]) => {
        const fact = element("span", "", name + " ");
        fact.append(element("b", "", value));
        return fact;
      })
    );
  }

  function drawCards(group) {
    const { rollouts, labels } = index;
    const cards = byId("cards");
    const begin = sums.first[group];
    const target = element("figure", "shot target");
    target.append(element("canvas"), element("figcaption", "", index.groups.target[group] ? "what is asked for" : "nothing fits"));
    const most = Math.max(...rollouts.advantage.slice(begin, sums.first[group + 1]).map((one) => Math.abs(one || 0)), 1e-9);
    const shots = state.answers.map((_, member) => {
      const row = begin + member;
      const shot = element("button", "shot");
      shot.type = "button";
      shot.dataset.member = member;
      if (state.filter.rollout) shot.classList.toggle("other", !state.filter.rollout(row, group));
      const told = element("span", "told");
      told.append(element("span", "label", labels[rollouts.label[row]]));
      const said = remark(index, row);
      if (said) told.append(element("span", rollouts.outcome[row] >= index.firstFailure ? "badge bad" : "badge", said));
      told.append(element("b", "", number(rollouts.reward[row])));
      shot.append(element("canvas"), told);
      const advantage = rollouts.advantage[row];
      if (advantage !== null) {
        const bar = element("span", "advantage");
        bar.title = "advantage";
        const part = element("i", advantage < 0 ? "worse" : "better");
        part.style.width = (50 * Math.abs(advantage)) / most + "%";
        bar.append(part);
        shot.append(bar, element("span", "adv " + (advantage < 0 ? "worse" : "better"), signed(advantage)));
      }
      shot.addEventListener("click", () => choose(member));
      shot.addEventListener("dblclick", zoom);
      return shot;
    });
    cards.classList.toggle("few", shots.length < 4);
    cards.replaceChildren(target, ...shots);
  }

  function drawPictures() {
    if (!state.scene) return;
    for (const shot of byId("cards").children) {
      if (shot.hidden) continue;
      const answer = shot.dataset.member === undefined ? null : state.answers[shot.dataset.member];
      paintPicture(shot.querySelector("canvas"), state.scene, answer, layers);
    }
  }

  function choose(member) {
    if (!state.scene) return;
    state.member = Math.max(0, Math.min(state.answers.length - 1, member));
    byId("cards").classList.toggle("zoomed", state.zoomed);
    for (const shot of byId("cards").children) {
      const mine = Number(shot.dataset.member) === state.member;
      shot.classList.toggle("chosen", mine);
      shot.hidden = state.zoomed && !mine && shot.dataset.member !== undefined;
    }
    drawPictures();
    drawAnswer();
  }

  function drawAnswer() {
    const { rollouts, labels } = index;
    const row = sums.first[state.group] + state.member;
    const answer = state.answers[state.member];
    byId("answer-of").textContent = labels[rollouts.label[row]];
    const facts = [];
    const add = (name, value) => value !== null && value !== undefined && facts.push([name, value]);
    if (index.earned) add("reward", number(rollouts.reward[row]));
    for (const [name, value] of Object.entries(answer.rewards || {})) {
      if (name !== "total") add(name, number(value));
    }
    if (!answer.rewards || !("mask_iou" in answer.rewards)) add("IoU", number(rollouts.iou[row]));
    if (rollouts.advantage[row] !== null) add("advantage", signed(rollouts.advantage[row]));
    for (const [name, value] of Object.entries(answer.confidence || {})) add("expected " + name, number(value));
    if (answer.scores) add("segmenter's own estimate", answer.scores.map((one) => number(one, 2)).join(", "));
    add("instances named", String(rollouts.named[row]));
    if (rollouts.tokens[row]) add("tokens", String(rollouts.tokens[row]));
    add("segmenter", answer.executor);
    byId("answer-facts").replaceChildren(
      ...facts.map(([name, value]) => {
        const line = element("tr");
        line.append(element("td", "", name), element("td", "", value));
        return line;
      })
    );
    const why = answer.failure || answer.error;
    byId("why").hidden = !why;
    byId("why").textContent = why || "";
    byId("completion").textContent = answer.text || "(nothing)";
  }

  function zoom() {
    state.zoomed = !state.zoomed;
    choose(state.member);
  }

  function toggle(name) {
    layers[name] = !layers[name];
    document.querySelector('input[data-layer="' + name + '"]').checked = layers[name];
    drawPictures();
  }

  function clear() {
    for (const id of ["f-outcome", "f-tag", "f-part", "f-from", "f-to", "f-text"]) byId(id).value = "";
    byId("f-order").value = "order";
    refilter(true);
  }

  offerFilters(index, sums, pairs);
  for (const id of ["f-order", "f-outcome", "f-tag", "f-part", "f-from", "f-to", "f-text"]) {
    byId(id).addEventListener("input", refilter);
  }
  for (const box of document.querySelectorAll("input[data-layer]")) {
    box.addEventListener("change", () => {
      layers[box.dataset.layer] = box.checked;
      drawPictures();
    });
  }
  byId("clear").addEventListener("click", clear);
  let width = 0;
  new ResizeObserver(() => {
    if (byId("cards").clientWidth === width) return;
    width = byId("cards").clientWidth;
    drawPictures();
  }).observe(byId("cards"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("tab-rollouts").hidden) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const orders = [...byId("f-order").options];
    const { key } = event;
    if (key === "ArrowDown" || key === "j") go(state.place + 1);
    else if (key === "ArrowUp" || key === "k") go(state.place - 1);
    else if (key === "PageDown") go(state.place + 10);
    else if (key === "PageUp") go(state.place - 10);
    else if (key === "Home") go(0);
    else if (key === "End") go(list.shown.length - 1);
    else if (key === "ArrowRight" || key === "l") choose(state.member + 1);
    else if (key === "ArrowLeft" || key === "h") choose(state.member - 1);
    else if (key === "Enter" || key === "z") zoom();
    else if (key === "Escape" && state.zoomed) zoom();
    else if (LAYERS[key]) toggle(LAYERS[key]);
    else if (key === "/") byId("f-text").focus();
    else if (key === "x") clear();
    else if (/^[1-9]$/.test(key) && orders[key - 1]) {
      byId("f-order").value = orders[key - 1].value;
      refilter();
    } else if (key === "?") byId("keys").open = !byId("keys").open;
    else return;
    event.preventDefault();
  });

  const wanted = /^#rollouts\/(\d+)$/.exec(location.hash);
  await refilter();
  if (wanted && Number(wanted[1]) < list.shown.length) await go(Number(wanted[1]));
}

function openTabs() {
  const tabs = [...document.querySelectorAll("[data-tab]")];
  const show = (name) => {
    for (const tab of tabs) {
      const mine = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", mine);
      byId("tab-" + tab.dataset.tab).hidden = !mine;
    }
    document.querySelector("main").classList.toggle("wide", name === "rollouts");
  };
  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      show(tab.dataset.tab);
      location.replace("#" + tab.dataset.tab);
    });
  }
  const name = location.hash.slice(1).split("/")[0];
  show(tabs.some((tab) => tab.dataset.tab === name) ? name : tabs[0].dataset.tab);
  byId("tabs").hidden = false;
  const schemes = ["", "dark", "light"];
  byId("scheme").addEventListener("click", () => {
    const root = document.documentElement;
    const next = schemes[(schemes.indexOf(root.style.colorScheme) + 1) % schemes.length];
    root.style.colorScheme = next;
    byId("scheme").textContent = next || "as the system";
  });
}

openTabs();
// The index stands before this script, the pieces and images after it.
document.addEventListener("DOMContentLoaded", async () => {
  try {
    await openViewer();
    document.documentElement.dataset.readyMs = performance.now().toFixed(1);
  } catch (error) {
    byId("broken").textContent = "The rollouts could not be shown: " + error.message;
    byId("broken").hidden = false;
  }
});
