"use strict";
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

function clock(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function element(tag, text, className) {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

function fill(id, nodes, section) {
  byId(id).replaceChildren(...nodes);
  if (section) byId(section).hidden = nodes.length === 0;
}

function tile(item) {
  const node = document.createElement("div");
  node.append(element("b", item.value), element("span", item.name));
  return node;
}

function chart(item) {
  const node = document.createElement("figure");
  node.innerHTML = item.svg; // drawn and escaped by the server
  node.firstElementChild.setAttribute("aria-label", item.caption);
  node.append(element("figcaption", item.caption));
  return node;
}

function skippedRow(item) {
  const row = document.createElement("tr");
  row.append(element("td", number(item.step)), element("td", item.reason));
  return row;
}

function samples(rows) {
  const prompts = [...new Set(rows.map((row) => row.prompt))];
  return prompts.map((prompt) => {
    const node = document.createElement("div");
    node.className = "sample";
    node.append(element("pre", prompt, "prompt"));
    for (const row of rows.filter((row) => row.prompt === prompt).slice(-4).reverse())
      node.append(element("p", `step ${number(row.step)}`, "label"), element("pre", row.text));
    return node;
  });
}

function amount(state) {
  const parts = [`step ${number(state.step)}${state.steps ? ` of ${number(state.steps)}` : ""}`, `${clock(state.seconds)} so far`];
  if (state.seconds_left) parts.push(`about ${clock(state.seconds_left)} left`);
  parts.push(`${number(state.skipped_steps)} skipped step${state.skipped_steps === 1 ? "" : "s"}`);
  return parts.join(" · ");
}

let drawn = "";
function show(state) {
  document.title = `${state.run}: ${state.state}`;
  byId("name").textContent = state.run;
  byId("state").textContent = `${state.stage}, ${state.state}`;
  byId("state").className = state.state;
  byId("bar").max = state.steps || Math.max(1, state.step);
  byId("bar").value = state.step;
  byId("amount").textContent = amount(state);
  byId("problem").textContent = state.problem || "";
  byId("problem").hidden = !state.problem;
  fill("tiles", state.tiles.map(tile));
  const key = `${state.run} ${state.step} ${state.charts.length}`;
  if (key !== drawn) {
    fill("charts", state.charts.map(chart), "curves");
    drawn = key;
  }
  fill("skipped", state.skipped.map(skippedRow), "skips");
  fill("samples", samples(state.samples), "texts");
  fill("notes", state.notes.map((note) => element("li", note.text, note.level)).reverse(), "messages");
}

async function refresh() {
  try {
    const response = await fetch("state");
    const state = await response.json();
    if (!response.ok) throw new Error(state.detail);
    show(state);
  } catch (error) {
    byId("problem").textContent = `The page cannot be updated: ${error.message}`;
    byId("problem").hidden = false;
  }
  setTimeout(refresh, document.hidden ? 10000 : 2000);
}
refresh();
