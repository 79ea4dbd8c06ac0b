// Keeps the queue live: the event stream says that something moved, the rows come from the server.
"use strict";
const live = document.getElementById("live");
const rows = document.getElementById("rows");
let fetching = false, again = false;

function show(state, words) { live.dataset.state = state; live.textContent = words; }

async function refresh() {
  if (fetching) { again = true; return; }
  fetching = true;
  try {
    const answer = await fetch("/console/queue/rows", { redirect: "error" });
    if (answer.ok) { rows.innerHTML = await answer.text(); }
  } catch (_) { show("lost", "连接中断,正在重试…"); }
  fetching = false;
  if (again) { again = false; refresh(); }
}

const stream = new EventSource("/v1/events");
stream.addEventListener("snapshot", () => { show("live", "实时更新中"); refresh(); });
stream.addEventListener("case", refresh);
stream.addEventListener("ended", refresh);
stream.onerror = () => show("lost", "连接中断,正在重试…");
