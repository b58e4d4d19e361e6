"use strict";
(() => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, text, look) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    if (look) node.className = look;
    return node;
  };
  const number = (value) => (value === null ? "-" : value.toFixed(3).replace(/^(-?)0\./, "$1."));

  // Tables: a header sorts by its column, numbers from the largest at first, empty cells last.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.tagName === "TH") return cell.textContent;
    if (cell.dataset.value === undefined) return null;
    const value = Number(cell.dataset.value);
    return Number.isNaN(value) ? cell.dataset.value : value;
  };
  const sort = (header) => {
    const table = header.closest("table"), column = header.cellIndex;
    const rows = [...table.tBodies[0].rows];
    const before = header.getAttribute("aria-sort");
    const text = rows.some((row) => typeof valueOf(row, column) === "string");
    const descending = before ? before === "ascending" : !text;
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    rows.sort((a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = text ? String(x).localeCompare(String(y)) : x - y;
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows);
  };

  // Single rows. First click: the rows of a model, the largest losses and wins first. Second click: one row in full.
  const panel = document.getElementById("panel"), content = document.getElementById("panel-content");
  const samples = new Map();
  const sampleOf = (prefix, task) => {
    const id = `${prefix}rows-${task}`;
    if (!samples.has(id)) samples.set(id, { ...json(id), labels: json(`${prefix}labels`), task });
    return samples.get(id);
  };
  const placeText = ([better, tied]) => (tied ? `${better + 1} to ${better + tied + 1}` : String(better + 1));
  const choice = (sample, chosen, changed) => {
    const select = make("select");
    sample.models.forEach((model, place) => {
      const option = make("option", sample.labels[model]);
      option.value = place;
      option.selected = place === chosen;
      select.append(option);
    });
    select.addEventListener("change", () => changed(Number(select.value)));
    return select;
  };
  const showRows = (sample, a, b) => {
    content.replaceChildren();
    content.append(make("h3", `${sample.task}: where two models differ`));
    const controls = make("p", null, "controls");
    controls.append(choice(sample, a, (place) => showRows(sample, place, b)), make("span", "against"),
      choice(sample, b, (place) => showRows(sample, a, place)));
    content.append(controls, make("p", `${sample.rows.length} of ${sample.of.toLocaleString("en")} rows. N@10 of the first seeds; ` +
      "largest losses first, then largest wins. Tap a row for its history and lists.", "note"));
    const head = ["difference", "place", "against", "clicked item", sample.task === "search" ? "query" : "", "user"].filter(Boolean);
    const table = make("table"), top = make("tr");
    head.forEach((name) => top.append(make("th", name)));
    table.append(make("thead"), make("tbody"));
    table.tHead.append(top);
    const gap = (row) => row.values[a] - row.values[b];
    const losses = sample.rows.filter((row) => gap(row) < 0).sort((x, y) => gap(x) - gap(y));
    const wins = sample.rows.filter((row) => gap(row) > 0).sort((x, y) => gap(y) - gap(x));
    const equal = sample.rows.filter((row) => gap(row) === 0);
    for (const row of [...losses, ...wins, ...equal]) {
      const line = make("tr", null, "row"), open = make("button", number(gap(row)));
      const first = make("th");
      first.append(open);
      line.append(first, make("td", placeText(row.places[a])), make("td", placeText(row.places[b])),
        make("td", sample.items[row.positive], "text"));
      if (sample.task === "search") line.append(make("td", row.query, "text"));
      line.append(make("td", row.user));
      line.addEventListener("click", () => showRow(sample, row, a, b));
      table.tBodies[0].append(line);
    }
    const scroll = make("div", null, "scroll");
    scroll.append(table);
    content.append(scroll);
    panel.scrollTop = 0;
  };
  const listOf = (sample, row, place) => {
    const part = make("div"), items = row.lists[place];
    part.append(make("h3", sample.labels[sample.models[place]]),
      make("p", `clicked item in place ${placeText(row.places[place])}, N@10 ${number(row.values[place])}`, "note"));
    if (items === null) {
      part.append(make("p", "top 10 not kept", "missing"));
      return part;
    }
    const list = make("ol");
    for (const item of items) list.append(make("li", sample.items[item], item === row.positive ? "positive" : ""));
    part.append(list);
    return part;
  };
  const showRow = (sample, row, a, b) => {
    content.replaceChildren();
    const back = make("button", "Back to the rows", "close");
    back.addEventListener("click", () => showRows(sample, a, b));
    content.append(back, make("h3", `User ${row.user}`));
    const facts = make("dl");
    if (row.query) facts.append(make("dt", "query"), make("dd", row.query));
    facts.append(make("dt", "clicked item"), make("dd", sample.items[row.positive]));
    content.append(facts, make("h3", "History, newest first"));
    if (row.history.length) {
      const list = make("ul", null, "history");
      for (const [item, query] of [...row.history].reverse()) {
        const text = item < 0 ? "(nothing that this row may see)" : sample.items[item];
        list.append(make("li", query ? `searched ${query}: ${text}` : text));
      }
      content.append(list);
    } else {
      content.append(make("p", "none", "missing"));
    }
    const two = make("div", null, "two");
    two.append(listOf(sample, row, a), listOf(sample, row, b));
    content.append(two);
    panel.scrollTop = 0;
  };
  const openRows = (button) => {
    const main = button.closest("main"), prefix = main.id.replace(/block$/, "");
    const sample = sampleOf(prefix, button.dataset.task || button.closest("table").dataset.task);
    const a = sample.models.indexOf(Number(button.dataset.model));
    const other = button.dataset.against === undefined ? sample.references[a] : Number(button.dataset.against);
    showRows(sample, a, sample.models.indexOf(other));
    if (!panel.open) panel.showModal();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.classList.contains("sort")) sort(button.closest("th"));
    if (button && button.classList.contains("rows")) openRows(button);
    if (event.target === panel) panel.close();
  });

  // Charts are as wide as their places. They are drawn one after the other, so that the page answers meanwhile.
  const draw = async () => {
    for (const place of document.querySelectorAll(".chart")) {
      const spec = json(place.dataset.spec);
      spec.width = Math.max(220, Math.min(spec.width, place.clientWidth) - 4);
      spec.autosize = { type: "fit-x", contains: "padding" };
      if (place.clientWidth < 400) spec.config = { ...spec.config, legend: { columns: 2 } };
      await window.vegaEmbed(place, spec, { actions: false, renderer: "svg" });
    }
    document.documentElement.dataset.drawn = "yes";
  };
  draw();
})();
