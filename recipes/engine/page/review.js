"use strict";
// The page of a review: shows an item, takes four answers, sends them. What is kept is the server's.
const $ = (id) => document.getElementById(id);
let state, here = 0, answers = {};
const ahead = new Map(); // number of an item -> promise of its picture

function picture(number) {
  if (!ahead.has(number)) {
    ahead.set(number, fetch(`picture/${number}`).then((reply) => reply.json()).then((data) => data.url || ""));
    if (ahead.size > 12) ahead.delete(ahead.keys().next().value);
  }
  return ahead.get(number);
}

async function show(number) {
  here = Math.max(0, Math.min(state.items.length - 1, number));
  const item = state.items[here];
  answers = {};
  for (const name of Object.keys(state.rubric)) answers[name] = item.verdict ? item.verdict[name] : true;
  $("question").textContent = item.question;
  $("answer").textContent = item.answer;
  $("tags").textContent = Object.entries(item.tags).map(([name, value]) => `${name}: ${value}`).join(" · ");
  $("said").textContent = item.verdict
    ? `${item.verdict.passed ? "passed" : "failed"}, said by ${item.verdict.who}, ${item.verdict.when}` : "";
  const done = state.items.filter((one) => one.verdict).length;
  $("count").textContent = `${here + 1} of ${state.items.length}, ${done} with a verdict`;
  draw();
  $("picture").className = "waiting"; // until it shows this item
  const url = await picture(here);
  if (state.items[here] !== item) return;
  $("picture").src = url;
  $("picture").className = "";
  if (here + 1 < state.items.length) picture(here + 1);
}

function draw() {
  $("rubric").replaceChildren(...Object.entries(state.rubric).map(([name, text]) => {
    const line = document.createElement("li");
    line.textContent = text;
    line.className = answers[name] ? "yes" : "no";
    line.addEventListener("click", () => turn(name));
    return line;
  }));
}

function turn(name) {
  answers[name] = !answers[name];
  draw();
}

async function keep() {
  const who = $("who").value.trim();
  if (!who) {
    $("said").textContent = "Say who you are first.";
    $("who").focus();
    return;
  }
  const number = here, item = state.items[number];
  const body = JSON.stringify({ ...answers, id: item.id, who, token: state.token });
  const reply = await fetch("verdict", { method: "POST", body });
  const said = await reply.json();
  if (!reply.ok) {
    $("said").textContent = said.error;
    return;
  }
  item.verdict = { ...said, passed: Object.keys(state.rubric).every((name) => said[name]) };
  if (here === number) next();
}

function next() {
  const open = (one) => !one.verdict;
  const after = state.items.findIndex((one, number) => number > here && open(one));
  const any = state.items.findIndex(open);
  show(after >= 0 ? after : any >= 0 ? any : here);
}

document.addEventListener("keydown", (event) => {
  if (event.target === $("who")) {
    if (event.key === "Enter") $("who").blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const names = Object.keys(state ? state.rubric : {});
  if (names[Number(event.key) - 1]) turn(names[Number(event.key) - 1]);
  else if (event.key === "Enter") keep();
  else if (event.key === "ArrowRight") show(here + 1);
  else if (event.key === "ArrowLeft") show(here - 1);
  else if (event.key === "n") next();
  else return;
  event.preventDefault();
});
$("keep").addEventListener("click", keep);
$("who").value = localStorage.getItem("who") || "";
$("who").addEventListener("change", () => localStorage.setItem("who", $("who").value));

fetch("state").then((reply) => reply.json()).then((data) => {
  state = data;
  const open = state.items.findIndex((one) => !one.verdict);
  show(open >= 0 ? open : 0);
});
