"use strict";
(() => {
  const data = JSON.parse(document.getElementById("query-data").textContent);
  const PAGE = 25, $ = id => document.getElementById(id);
  const add = (parent, name, text, cls) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;  // never as HTML: sentences come from data
    if (cls) node.className = cls;
    parent.append(node);
    return node;
  };
  const clock = s => {
    s = Math.round(s);
    const two = n => String(n).padStart(2, "0");
    return Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
  };
  const span = m => clock(m[0]) + " – " + clock(m[1]);
  const rows = data.rows.map(r => ({
    sentence: r[0], video: data.videos[r[1]][0], length: data.videos[r[1]][1], truth: r[2], levels: r[3], outcome: r[4],
    iou: r[5], lost: r[6], seen: r[7] || [-1, -1], low: r[0].toLowerCase(),
  }));
  let shown = rows, at = 0;

  const bar = (card, name, moments, length, cls) => {
    add(card, "span", name, "level");
    const track = add(card, "div", undefined, "track");
    moments.slice().reverse().forEach((m, i) => {
      const mark = add(track, "i", undefined, cls);
      mark.style.left = 100 * m[0] / length + "%";
      mark.style.width = Math.max(100 * (m[1] - m[0]) / length, 0.6) + "%";
      if (m.length > 2) {
        mark.style.opacity = 1 - 0.16 * (moments.length - 1 - i);
        if (m[2] < data.threshold) mark.classList.add("unsure");
      }
      mark.title = span(m) + (m.length > 2 ? ", confidence " + m[2] : "");
    });
  };

  const draw = () => {
    const list = $("query-list");
    list.textContent = "";
    shown.slice(at, at + PAGE).forEach(row => {
      const card = add(list, "article");
      const head = add(card, "p", undefined, "head");
      add(head, "b", row.sentence);
      add(head, "span", data.outcomes[row.outcome], "tag" + (row.outcome < data.failures ? " bad" : ""));
      const first = row.levels.length && row.levels[row.levels.length - 1][1][0];
      const facts = [row.video, clock(row.length), "truth " + (row.truth.map(span).join(", ") || "never"),
        first ? "first answer " + span(first) + ", confidence " + first[2] : "no answer"];
      if (row.iou !== null) facts.push("IoU " + row.iou);
      if (row.lost) facts.push("lost at " + row.lost);
      add(card, "p", facts.join(" · "), "facts");
      const seen = row.seen.some(n => n >= 0) && add(card, "div", undefined, "seen");
      ["first answer", "truth"].forEach((name, i) => {
        if (row.seen[i] < 0) return;
        const figure = add(seen, "figure");
        const picture = add(figure, "img");
        picture.src = "data:image/jpeg;base64," + data.pictures[row.seen[i]];
        picture.alt = name;
        add(figure, "figcaption", name);
      });
      const lines = add(card, "div", undefined, "lines");
      bar(lines, "truth", row.truth, row.length, "true");
      row.levels.forEach(([name, moments]) => bar(lines, data.names[name], moments, row.length, "told"));
    });
    $("query-count").textContent = shown.length
      ? (at + 1) + " to " + Math.min(at + PAGE, shown.length) + " of " + shown.length.toLocaleString("en") : "none";
    $("query-back").disabled = at === 0;
    $("query-next").disabled = at + PAGE >= shown.length;
  };
  const filter = () => {
    const text = $("query-text").value.toLowerCase(), kind = $("query-outcome").value;
    const video = $("query-video").value.toLowerCase();
    const least = 60 * ($("query-least").value || 0), most = 60 * ($("query-most").value || Infinity);
    shown = rows.filter(r => r.low.includes(text) && (kind === "" || r.outcome === +kind || (kind === "failures" && r.outcome < data.failures))
      && r.video.toLowerCase().includes(video) && r.length >= least && r.length <= most);
    at = 0;
    draw();
  };
  const kinds = $("query-outcome");
  data.outcomes.forEach((name, i) => {
    const count = rows.filter(r => r.outcome === i).length;
    if (count) add(kinds, "option", name + " (" + count + ")").value = i;
  });
  ["query-text", "query-outcome", "query-video", "query-least", "query-most"].forEach(id => $(id).addEventListener("input", filter));
  $("query-back").addEventListener("click", () => { at -= PAGE; draw(); });
  $("query-next").addEventListener("click", () => { at += PAGE; draw(); });
  draw();
})();
