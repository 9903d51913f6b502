"use strict";
const at = id => document.getElementById(id);
const keep = {
  get: name => { try { return sessionStorage.getItem(name); } catch { return null; } },
  set: (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* a private window */ } },
};
const user = keep.get("user") || crypto.getRandomValues(new Uint32Array(3)).join("-");
keep.set("user", user);
let messages = [], stopping = null;

function headers(more) {
  const secret = keep.get("key");
  return { ...(secret ? { Authorization: "Bearer " + secret } : {}), ...more };
}

async function problemOf(response) {
  try { return (await response.json()).error.message; } catch { return "The service answered " + response.status + "."; }
}

async function loadModels() {
  let response;
  try { response = await fetch("v1/models", { headers: headers() }); } catch { at("version").textContent = "not reachable"; return; }
  if (response.status === 401) { askForKey(); return; }
  if (!response.ok) { at("version").textContent = await problemOf(response); return; }
  const before = at("model").value, models = (await response.json()).data;
  at("model").replaceChildren(...models.map(model => new Option(model.id, model.id)));
  if (models.some(model => model.id === before)) at("model").value = before;
  const showVersion = () => {
    const model = models.find(model => model.id === at("model").value);
    if (!model) return;
    at("version").textContent = model.vita.version + (model.vita.state === "deprecated" ? " (deprecated)" : "");
    const gate = model.vita.gate || {};
    at("gate").textContent = gate.status === "ungated" ? "Not approved by a gate: " + gate.reason
      : gate.status === "research" ? "Retired, served for research only" : gate.gate ? "Approved by the gate " + gate.gate : "";
    at("gate").classList.toggle("problem", gate.status !== "approved");
  };
  at("model").onchange = showVersion;
  showVersion();
  if (models.length) document.title = models[0].id;
}

function askForKey() {
  at("secret").value = keep.get("key") || "";
  if (!at("keys").open) at("keys").showModal();
}

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key in node) node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function addTurn(role, content) {
  at("welcome").hidden = true;
  const text = element("div", { className: "text" });
  text.textContent = content;
  const turn = element("li", { className: "turn " + role }, text);
  at("talk").append(turn);
  scrollDown(true);
  return { turn, text };
}

function scrollDown(always) {
  const box = at("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

async function sendMessage(content) {
  messages.push({ role: "user", content });
  addTurn("user", content);
  const shown = addTurn("assistant", "");
  shown.turn.classList.add("busy");
  stopping = new AbortController();
  at("send").textContent = "Stop";
  let answer = "", id = null, problem = null, dropped = 0;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json", "X-Vita-Consent": at("consent").checked ? "yes" : "no" }),
      body: JSON.stringify({ model: at("model").value, messages, stream: true, truncation: "auto", user }),
      signal: stopping.signal,
    });
    id = response.headers.get("x-request-id");
    if (response.status === 401) askForKey();
    if (!response.ok) throw new Error(await problemOf(response));
    at("version").textContent = response.headers.get("x-vita-version") || "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.dropped_messages && !dropped) {
        dropped = event.dropped_messages;
        shown.turn.before(element("li", { className: "notice", role: "status" }, noticeOf(dropped)));
      }
      answer += event.choices?.[0]?.delta?.content || "";
      shown.text.textContent = answer;
      scrollDown();
    }
  } catch (error) {
    problem = error.name === "AbortError" ? "Stopped." : error.message;
  }
  stopping = null;
  at("send").textContent = "Send";
  shown.turn.classList.remove("busy");
  if (answer) messages.push({ role: "assistant", content: answer }); else messages.pop();
  forget(dropped);
  const tools = element("div", { className: "tools" });
  shown.turn.append(tools);
  if (problem) tools.append(element("span", { className: "problem", role: "alert" }, problem));
  else addTools(tools, shown, id, answer);
  scrollDown();
  at("text").focus();
}

function noticeOf(count) {
  const number = count === 1 ? "message was" : count + " messages were";
  return "The context is full: the oldest " + number + " dropped. Start a new chat to begin again.";
}

/* Messages that the server dropped are not sent again; system messages at the beginning stay. */
function forget(count) {
  const start = messages.findIndex(message => message.role !== "system");
  if (count && start >= 0) messages.splice(start, count);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter(line => line.startsWith("data:")).map(line => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function addTools(tools, shown, id, answer) {
  const note = element("span", { role: "status" });
  const send = async (body, thanks, button) => {
    const response = await fetch("v1/feedback", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify({ request_id: id, consent: at("consent").checked, ...body }),
    }).catch(() => null);
    const omitted = response?.ok ? (await response.json()).left_out.length : 0;
    if (omitted) thanks = "Recorded without your text, which is stored only if you allow it below.";
    note.textContent = response?.ok ? thanks : response ? await problemOf(response) : "The service cannot be reached.";
    note.className = response?.ok ? "" : "problem";
    if (response?.ok && button) button.setAttribute("aria-pressed", "true");
    return response?.ok && !omitted;
  };
  const button = (label, name, act) => {
    const control = element("button", { type: "button", title: name, "aria-label": name }, label);
    control.onclick = () => act(control);
    return control;
  };
  const up = button("Good", "Good answer", pressed => send({ kind: "thumb", value: 1 }, "Thank you.", pressed).then(ok => ok && down.removeAttribute("aria-pressed")));
  const down = button("Bad", "Bad answer", pressed => send({ kind: "thumb", value: -1 }, "Thank you.", pressed).then(ok => ok && up.removeAttribute("aria-pressed")));
  const correct = button("Correct", "Write a corrected answer", pressed =>
    form(shown.turn, "Corrected answer", answer, text => send({ kind: "edit", better: text }, "The corrected answer was recorded.", pressed)));
  const flag = button("Flag", "Report a problem", pressed =>
    form(shown.turn, "Problem with this answer", "", text => send({ kind: "flag", reason: text }, "The problem was reported.", pressed)));
  tools.append(up, down, correct, flag, note);
}

function form(turn, label, content, act) {
  turn.querySelector("form")?.remove();
  const area = element("textarea", { rows: 3, value: content, "aria-label": label });
  const cancel = element("button", { type: "button" }, "Cancel");
  const node = element("form", {}, element("label", {}, label), area,
    element("div", { className: "tools" }, element("button", { type: "submit" }, "Send"), cancel));
  cancel.onclick = () => node.remove();
  node.onsubmit = async event => {
    event.preventDefault();
    if (area.value.trim() && await act(area.value.trim())) node.remove();
  };
  turn.append(node);
  area.focus();
  scrollDown();
}

function fit() {
  at("text").style.height = "auto";
  at("text").style.height = at("text").scrollHeight + 2 + "px";
}

at("ask").onsubmit = event => {
  event.preventDefault();
  if (stopping) { stopping.abort(); return; }
  const content = at("text").value.trim();
  if (!content) return;
  at("text").value = "";
  fit();
  sendMessage(content);
};
at("text").oninput = fit;
at("text").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
};
document.onkeydown = event => { if (event.key === "Escape" && stopping) stopping.abort(); };
at("new").onclick = () => {
  stopping?.abort();
  messages = [];
  at("talk").replaceChildren();
  at("welcome").hidden = false;
  at("text").focus();
};
at("key").onclick = askForKey;
at("keys").onclose = () => {
  if (at("keys").returnValue === "use") { keep.set("key", at("secret").value.trim()); loadModels(); }
};
loadModels();
