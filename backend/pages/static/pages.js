// Replaces the runs that go on when the server says that they have changed. Each answer of the server ends at once,
// and the browser asks again by itself, so no connection is held.
"use strict";

for (const place of document.querySelectorAll("[data-events]")) {
  const source = new EventSource(place.dataset.events);
  let shown = null;
  let isEnded = false;
  source.addEventListener("message", (event) => {
    if (event.data === shown) return;
    const isFirst = shown === null;
    shown = event.data;
    if (isFirst && place.innerHTML.trim() === event.data.trim()) return;
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    place.innerHTML = event.data;
    if (focused !== null) {
      for (const link of place.querySelectorAll("a")) {
        if (link.getAttribute("href") === focused) link.focus();
      }
    }
  });
  // The browser asks again after a broken connection, and never after another answer than an event.
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    isEnded = true;
    if (shown !== null) return;
    const fault = document.createElement("p");
    fault.setAttribute("role", "alert");
    fault.textContent = "The server does not say how it goes on: load this page again.";
    place.append(fault);
  });
  // A browser keeps few connections to a host: a page that nobody looks at asks nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else if (source.readyState === EventSource.CLOSED && !isEnded) location.reload();
  });
}

// Leads from a fault to its line in the editor.
for (const button of document.querySelectorAll("[data-line]")) {
  button.addEventListener("click", () => {
    const editor = document.getElementById(button.dataset.of);
    const lines = editor.value.split("\n");
    const number = Number(button.dataset.line) - 1;
    const start = lines.slice(0, number).reduce((length, line) => length + line.length + 1, 0);
    editor.focus();
    editor.setSelectionRange(start, start + (lines[number] ?? "").length);
    editor.scrollTop = (editor.scrollHeight / lines.length) * Math.max(0, number - 3);
  });
}
