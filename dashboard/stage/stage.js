/*
 * The stage: an OrderRace of the orders in flight, with live data and counters.
 *
 * It draws the state of DELAY_MS ago. So the data of that moment has arrived, and the orders move smoothly between
 * two refreshes.
 */
class Stage {
  constructor(element) {
    this.part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.options = JSON.parse(element.dataset.options);
    this.isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.race = new OrderRace(this.part("race"), { limitMs: this.options.limitMs });
    this.race.flashes = !this.isCalm;
    this.race.flashMs = 2500;
    this.frames = 0;
    this.offsetMs = null; // clock of the server less performance.now()
    this.countOf = new Map(this.options.phases.map((name) => [name, this._addLegend(name)]));
    // The size of the font depends on that of the window.
    new ResizeObserver(() => this.race.readColors()).observe(element);
    this._refresh();
    requestAnimationFrame((now) => this._frame(now));
  }

  async _refresh() {
    if (!document.hidden) {
      try {
        await this._read();
        this.part("problem").textContent = "";
      } catch (error) {
        this.part("problem").textContent = error.message;
      }
    }
    setTimeout(() => this._refresh(), this.options.refreshMs);
  }

  async _read() {
    let response;
    try {
      response = await fetch(this.options.url, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    } catch {
      throw new Error("The dashboard is not responding. Retrying.");
    }
    if (response.status === 401) throw new Error("The session has ended. Reload the page to sign in.");
    if (!response.ok) throw new Error(`No live data: ${(await response.text()).slice(0, 120)}. Retrying.`);
    this.show(await response.json());
  }

  show(data) {
    const offset = data.now_ms - performance.now();
    // The largest offset belongs to the response with the shortest way. The slow decrease follows a clock change.
    this.offsetMs = this.offsetMs === null ? offset : Math.max(offset, this.offsetMs - 5);
    this.race.setOrders(Playback.orders(data));
    this.race.setDisturbances(data.disturbances);
    this.race.setFaults(data.faults);
    for (const [name, count] of Object.entries(data.counters)) {
      this.part(name).textContent = count.toLocaleString("en-US");
      const isBad = name === "late" ? data.is_breached : name !== "orders" && count > 0;
      this.part(name).parentElement.classList.toggle("bad", isBad);
    }
  }

  _frame(now) {
    // Reduced motion: two pictures a second instead of a moving one.
    if (this.offsetMs !== null && (!this.isCalm || now - (this.drawnAt ?? -Infinity) >= 500)) {
      this.drawnAt = now;
      const counts = this.race.draw(now + this.offsetMs - Stage.DELAY_MS);
      for (const [name, element] of this.countOf) element.textContent = String(counts.phases[name] ?? 0);
      this.frames += 1;
      document.body.dataset.ready = "true";
    }
    requestAnimationFrame((next) => this._frame(next));
  }

  _addLegend(name) {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `var(--phase-${name})`;
    const count = document.createElement("b");
    item.append(swatch, `${name} `, count);
    this.part("legend").append(item);
    return count;
  }
}
Stage.DELAY_MS = 2000;

window.stage = new Stage(document.querySelector(".stage"));
