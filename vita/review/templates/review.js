"use strict";
const base = location.pathname.replace(/\/$/, "");
const at = id => document.getElementById(id);
const PAIR = [["left", "Left is better", "1"], ["tie", "Tie", "2"], ["right", "Right is better", "3"],
  ["both_bad", "Both are bad", "4"], ["skip", "Skip", "s"]];
let task, item, shownAt, sending = false;

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;   // never as markup: answers are untrusted text
  if (className) node.className = className;
  return node;
}

async function request(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await fetch(base + path, options);
  const content = await response.json();
  if (!response.ok) throw new Error(typeof content.detail === "string" ? content.detail : "The rating was not saved. Reload the page.");
  return content;
}

function show(state) {
  const { done, total } = state.progress;
  at("bar").max = total || 1; at("bar").value = total ? done : 1;
  at("count").textContent = `${done} of ${total}`;
  item = state.item; shownAt = performance.now();
  at("work").hidden = !item; at("done").hidden = Boolean(item);
  at("again").hidden = at("back").hidden = done === 0;
  at("problem").textContent = "";
  if (!item) return;
  at("prompt").replaceChildren(...item.prompt.map(turn => {
    const box = element("div", undefined, "text turn");
    if (item.prompt.length > 1 || turn.role !== "user") box.append(element("small", turn.role));
    box.append(turn.content);
    return box;
  }));
  at("answers").className = item.answers.length > 1 ? "two" : "";
  at("answers").replaceChildren(...item.answers.map((text, number) => {
    const box = element("section");
    box.append(element("h2", item.answers.length > 1 ? ["Left", "Right"][number] : "Answer"), element("div", text, "text"));
    return box;
  }));
  const rating = state.rating || { choice: null, criteria: {}, rationale: "" };
  at("why").value = rating.rationale;
  if (task.kind === "rubric") criteria(rating.criteria);
  for (const button of at("choices").children) button.classList.toggle("chosen", button.dataset.choice === rating.choice);
  scrollTo(0, 0);
}

function criteria(levels) {
  at("criteria").replaceChildren(...task.criteria.map(criterion => {
    const box = element("fieldset"), list = element("div", undefined, "levels");
    box.append(element("legend", criterion.name), element("p", criterion.question, "question"), list);
    criterion.anchors.forEach((anchor, number) => {
      const label = element("label"), input = element("input");
      input.type = "radio"; input.name = criterion.name; input.value = number + 1; input.checked = levels[criterion.name] === number + 1;
      input.addEventListener("change", current);
      label.append(input, element("span", String(number + 1)), element("span", anchor));
      list.append(label);
    });
    return box;
  }));
  current();
}

const chosen = box => box.querySelector("input:checked");
const open = () => [...at("criteria").children].find(box => !chosen(box));

function current() {
  at("problem").textContent = "";
  for (const box of at("criteria").children) box.classList.toggle("current", box === open());
}

async function rate(choice) {
  if (sending || !item) return;
  const rating = { item: item.id, rationale: at("why").value, milliseconds: Math.round(performance.now() - shownAt) };
  if (choice !== "save") rating.choice = choice;
  else {
    if (open()) { at("problem").textContent = `Please choose a level for ${open().querySelector("legend").textContent}.`; return; }
    rating.criteria = Object.fromEntries([...at("criteria").children].map(box => { const input = chosen(box); return [input.name, Number(input.value)]; }));
  }
  await update(() => request("/rate", rating));
}

async function update(action) {
  sending = true;
  try { show(await action()); } catch (problem) { at("problem").textContent = problem.message; }
  sending = false;
}

function buttons() {
  const choices = task.kind === "pairwise" ? PAIR : [["skip", "Skip", "s"], ["save", "Save and continue", "Enter"]];
  at("choices").replaceChildren(...choices.map(([choice, text, key]) => {
    const button = element("button", text);
    button.type = "button"; button.dataset.choice = choice;
    if (choice === "save") button.className = "main";
    button.append(element("kbd", key));
    button.addEventListener("click", () => rate(choice));
    return button;
  }));
  at("keys").textContent = task.kind === "pairwise" ? "Keys: 1 left, 2 tie, 3 right, 4 both bad, s skip, c change the previous rating"
    : "Keys: 1 to 5 for the marked criterion, Enter to save, s skip, c change the previous rating";
  document.addEventListener("keydown", event => {
    if (event.target.tagName === "TEXTAREA" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "c" && !at("back").hidden) return void back();
    const match = choices.find(([, , key]) => key === event.key);
    if (match) { if (event.target.tagName !== "BUTTON" || event.key !== "Enter") { event.preventDefault(); rate(match[0]); } return; }
    if (task.kind === "rubric" && "12345".includes(event.key) && open()) {
      open().querySelectorAll("input")[Number(event.key) - 1].checked = true; current();
    }
  });
}

const back = () => update(() => request("/last"));
at("back").addEventListener("click", back);
at("again").addEventListener("click", back);

(async () => {
  try {
    task = await request("/task");
    at("name").textContent = document.title = task.name;
    at("words").textContent = task.guideline;
    buttons();
    const first = await request("/next");
    at("guideline").open = first.progress.done === 0;
    show(first);
  } catch (problem) { at("work").hidden = false; at("problem").textContent = problem.message; }
})();
