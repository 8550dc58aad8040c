// The page is complete without this: it sorts tables, fades masks, and closes an enlarged picture.
for (const slider of document.querySelectorAll(".slider")) {
  slider.hidden = false;
  slider.querySelector("input").addEventListener("input", (event) => {
    document.documentElement.style.setProperty("--alpha", event.target.value / 100);
    for (const other of document.querySelectorAll(".slider input")) other.value = event.target.value;
  });
}
document.addEventListener("mousedown", (event) => {
  const open = document.activeElement.closest(".pic");
  if (open && open === event.target.closest(".pic")) { event.preventDefault(); open.blur(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement.blur();
});
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[data-sort]")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = head.dataset.sort === "number";
      const next = head.ariaSort ? (head.ariaSort === "ascending" ? -1 : 1) : numeric ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next > 0 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!numeric) return next * x.localeCompare(y);
        if (x === "" || y === "") return (x === "") - (y === "");
        return next * (Number(x) - Number(y));
      });
      body.append(...rows);
    });
  });
}
