/*
 * Playback of a run: an OrderRace with a clock and controls.
 *
 *   const playback = new Playback(element, data);   // element: player.html, data: RunPlayback.to_json()
 *   playback.play(); playback.pause(); playback.seek(12000);
 *   playback.readColors();                          // after a change of the theme
 *
 * Keys inside the element: space plays and pauses, left and right move 1 s (with shift 10 s), home and end.
 */
class Playback {
  constructor(element, data) {
    this.element = element;
    this.part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.orders = Playback.orders(data);
    this.total = data.total;
    this.clockMs = 0;
    this.isPlaying = false;
    this.frames = 0;
    this.endMs = Playback.end(this.orders, data);
    this.isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.race = new OrderRace(this.part("race"), { limitMs: data.limit_ms });
    this.race.flashes = !this.isCalm;
    this.race.setOrders(this.orders);
    this.race.setDisturbances(data.disturbances);
    this.race.setFaults(data.faults);
    this.inFlight = Playback.inFlightBySlice(this.orders, this.endMs, 200);
    this._addControls(data);
    this._addDisturbances(data.disturbances);
    new ResizeObserver(() => this._draw()).observe(element);
    this._draw();
  }

  /* The orders as OrderRace needs them, from the columns of the data. */
  static orders(data) {
    const starts = Object.entries(data.starts);
    return data.ids.map((id, n) => ({
      id,
      accepted: data.accepted[n],
      end: data.end[n] < 0 ? null : data.end[n],
      outcome: data.outcome[n] < 0 ? null : data.outcomes[data.outcome[n]],
      late: data.late[n] === 1,
      phases: starts.filter(([, column]) => column[n] >= 0).map(([name, column]) => [name, column[n]]),
    }));
  }

  static end(orders, data) {
    const ends = orders.map((order) => order.accepted + (order.end ?? data.limit_ms * 1.1));
    return Math.max(1000, ...data.disturbances.map((each) => each.at), ends.reduce((a, b) => Math.max(a, b), 0)) + 500;
  }

  static inFlightBySlice(orders, endMs, slices) {
    const counts = new Int32Array(slices + 1);
    const slice = (ms) => Math.min(slices, Math.max(0, Math.floor((ms / endMs) * slices)));
    for (const order of orders) {
      counts[slice(order.accepted)] += 1;
      if (order.end !== null) counts[Math.min(slices, slice(order.accepted + order.end) + 1)] -= 1;
    }
    for (let n = 1; n < counts.length; n += 1) counts[n] += counts[n - 1];
    return counts;
  }

  play() {
    if (this.clockMs >= this.endMs) this.clockMs = 0;
    this.isPlaying = true;
    this._showState();
    let before = null;
    const frame = (now) => {
      if (!this.isPlaying) return;
      // Reduced motion: two pictures a second instead of a moving one.
      if (before === null || !this.isCalm || now - before >= 500) {
        this.clockMs = Math.min(this.endMs, this.clockMs + (before === null ? 0 : now - before) * this.speed);
        before = now;
        this._draw();
      }
      if (this.clockMs >= this.endMs) this.pause();
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  pause() {
    this.isPlaying = false;
    this._showState();
    this._draw();
  }

  seek(clockMs) {
    this.clockMs = Math.min(this.endMs, Math.max(0, clockMs));
    this._draw();
  }

  get speed() {
    return Number(this.part("speed").value);
  }

  readColors() {
    this.race.readColors();
    this._draw();
  }

  _addControls(data) {
    const clock = this.part("clock");
    clock.max = String(Math.ceil(this.endMs));
    clock.addEventListener("input", () => this.seek(Number(clock.value)));
    this.part("play").addEventListener("click", () => this._toggle());
    this.part("race").addEventListener("click", () => this._toggle());
    this.element.addEventListener("keydown", (event) => this._onKey(event));
    const speeds = [...this.part("speed").options].map((option) => Number(option.value));
    // The default speed shows the run in about half a minute.
    this.part("speed").value = String(speeds.find((speed) => this.endMs / 1000 / speed <= 30) ?? speeds.at(-1));
    const phases = [...Object.keys(data.starts), ...(this.orders.some((each) => !each.phases.length) ? ["unknown"] : [])];
    this.countOf = new Map(phases.map((name) => [name, this._addLegend(name)]));
  }

  _addLegend(name) {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `var(--phase-${name}, var(--muted))`;
    const count = document.createElement("b");
    item.append(swatch, name === "unknown" ? "in progress " : `${name} `, count);
    this.part("legend").append(item);
    return count;
  }

  _addDisturbances(disturbances) {
    for (const each of disturbances.slice(0, 40)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${(each.at / 1000).toFixed(1)} s ${each.name}`;
      button.addEventListener("click", () => this.seek(each.at - 1000));
      this.part("disturbances").append(button);
    }
  }

  _toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  _onKey(event) {
    const target = event.target;
    if (event.altKey || event.ctrlKey || event.metaKey || target.tagName === "SELECT") return;
    const step = event.shiftKey ? 10_000 : 1_000;
    const actions = {
      ArrowLeft: () => this.seek(this.clockMs - step),
      ArrowRight: () => this.seek(this.clockMs + step),
      Home: () => this.seek(0),
      End: () => this.seek(this.endMs),
    };
    // A button reacts to the space key on its own.
    if (target.tagName !== "BUTTON") actions[" "] = () => this._toggle();
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  _showState() {
    const button = this.part("play");
    button.textContent = this.isPlaying ? "Pause" : "Play";
  }

  _draw() {
    // At 60x, a disturbance of 1.5 s on the clock of the run would be visible for one frame only.
    this.race.flashMs = 1200 * Math.max(1, this.speed);
    const counts = this.race.draw(this.clockMs);
    this.frames += 1;
    this._drawOverview();
    const seconds = (this.clockMs / 1000).toFixed(1);
    const text = `${counts.inFlight} in flight, ${counts.finished} finished, ${counts.late} late`;
    this.part("time").textContent = `${seconds} s of ${(this.endMs / 1000).toFixed(1)} s`;
    this.part("counts").textContent = text;
    for (const [name, element] of this.countOf) element.textContent = String(counts.phases[name] ?? 0);
    const clock = this.part("clock");
    clock.value = String(Math.round(this.clockMs));
    if (!this.isPlaying) clock.setAttribute("aria-valuetext", `${seconds} s: ${text}`);
  }

  /* Orders in flight, and the disturbances, behind the scrub bar. */
  _drawOverview() {
    const canvas = this.part("overview");
    const key = `${canvas.clientWidth} ${this.race.color("--text")} ${window.devicePixelRatio}`;
    if (this.overviewKey === key) return;
    this.overviewKey = key;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const highest = Math.max(1, ...this.inFlight);
    context.fillStyle = this.race.color("--grid");
    this.inFlight.forEach((count, n) => {
      const x = (n / this.inFlight.length) * width;
      context.fillRect(x, height - (count / highest) * height, width / this.inFlight.length + 1, height);
    });
    context.fillStyle = this.race.color("--late");
    for (const each of this.race.disturbances) context.fillRect((each.at / this.endMs) * width - 1, 0, 2, height);
    for (const order of this.orders) {
      if (order.late) context.fillRect(((order.accepted + this.race.limitMs) / this.endMs) * width, height - 5, 1, 5);
    }
  }
}
