// Keeps the queue live: the event stream says that something moved, the rows come from the server. J and K move, Enter opens.
"use strict";
const live = document.getElementById("live");
const rows = document.getElementById("rows");
let fetching = false, again = false, chosen = null;

function show(state) { live.dataset.state = state; live.textContent = live.dataset[state]; }

function choose(step) {
  const all = [...rows.querySelectorAll("tr[data-case]")];
  if (!all.length) { return; }
  const at = all.findIndex((row) => row.dataset.case === chosen);
  const row = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  chosen = row.dataset.case;
  row.querySelector("a").focus();
}

async function refresh() {
  if (fetching) { again = true; return; }
  fetching = true;
  const focused = rows.contains(document.activeElement);
  try {
    const answer = await fetch("/console/queue/rows", { redirect: "error" });
    if (answer.ok) { rows.innerHTML = await answer.text(); }
    if (focused) { choose(0); }
  } catch (_) { show("lost"); }
  fetching = false;
  if (again) { again = false; refresh(); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) { return; }
  if (event.key === "j") { choose(1); } else if (event.key === "k") { choose(-1); }
});

const stream = new EventSource("/v1/events");
stream.addEventListener("snapshot", () => { show("live"); refresh(); });
stream.addEventListener("case", refresh);
stream.addEventListener("ended", refresh);
stream.onerror = () => show("lost");
