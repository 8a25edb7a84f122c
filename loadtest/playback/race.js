/*
 * OrderRace draws orders on a canvas. Each order moves to the right with its age, towards the limit.
 *
 *   const race = new OrderRace(canvas, { limitMs: 15000 });
 *   race.setOrders(orders);              // in order of acceptance; call it again for live data
 *   race.setDisturbances(disturbances);  // [{ at, until, name }], until null: still down
 *   race.setFaults(faults);              // [{ from, to, name }], to null: still active
 *   const counts = race.draw(clockMs);   // draws any moment, forwards and backwards
 *   race.readColors();                   // after a change of the theme
 *
 * An order is { id, accepted, end, outcome, late, phases }. `accepted` and all times of setDisturbances,
 * setFaults and draw are ms of one clock, for example since the start of a run. `end` is ms from acceptance
 * to the outcome; `end` and `outcome` are null while the order is open. `phases` is [[name, startMs], ...] in
 * order of time, ms since acceptance. With live data, an order keeps its row by its id.
 *
 * Colors are CSS properties of the canvas: --phase-NAME, --outcome-NAME, --late, --text, --muted, --grid,
 * --band. Labels have the font of the canvas, and their size scales the rows at the edges. The canvas has the size
 * that CSS gives it. `race.flashMs` is the time for which a disturbance flashes and an outcome stays visible, on the
 * clock of the orders. `race.flashes = false` switches the flashes off, for prefers-reduced-motion.
 *
 * draw returns { waiting, inFlight, finished, late, phases: { name: count } } at that moment.
 */
class OrderRace {
  constructor(canvas, { limitMs, minRows = 12 }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.limitMs = limitMs;
    this.minRows = minRows;
    this.flashMs = 1500;
    this.flashes = true;
    this.orders = [];
    this.rowOf = new Map();
    this.rows = []; // { id, freeAt } of the last order in each row
    this.disturbances = [];
    this.faults = [];
    this.readColors();
  }

  setOrders(orders) {
    this.orders = orders;
    const ids = new Set(orders.map((order) => order.id));
    for (const row of this.rows) if (!ids.has(row.id)) row.freeAt = -Infinity;
    for (const id of this.rowOf.keys()) if (!ids.has(id)) this.rowOf.delete(id);
    let longest = 0;
    for (const order of orders) {
      longest = Math.max(longest, order.end ?? 0);
      this._assignRow(order);
    }
    this.axisMs = Math.min(Math.max(this.limitMs * 1.15, longest * 1.03), this.limitMs * 3);
    this._countBins();
  }

  setDisturbances(disturbances) {
    this.disturbances = disturbances;
  }

  setFaults(faults) {
    this.faults = faults;
  }

  readColors() {
    const style = getComputedStyle(this.canvas);
    const known = new Map();
    this.color = (name) => {
      if (!known.has(name)) known.set(name, style.getPropertyValue(name).trim());
      return known.get(name);
    };
    this.fontPx = parseFloat(style.fontSize);
    this.fontFamily = style.fontFamily;
  }

  draw(clockMs) {
    const { width, height } = this._fitCanvas();
    const area = this._layout(width, height);
    const context = this.context;
    context.clearRect(0, 0, width, height);
    context.font = this._font();
    const counts = { waiting: 0, inFlight: 0, finished: 0, late: 0, phases: {} };
    const marks = new Map(); // color name -> [x, y, x, y, ...] of orders in flight
    const bins = new Map(); // color name -> orders by bin
    const ended = [];
    for (const order of this.orders) {
      const age = clockMs - order.accepted;
      if (age < 0) {
        counts.waiting += 1;
        continue;
      }
      const isLate = age > this.limitMs ? order.late || order.end === null || order.end > this.limitMs : false;
      if (order.end !== null && age >= order.end) {
        counts.finished += 1;
        counts.late += order.late ? 1 : 0;
        const name = order.late ? "--late" : `--outcome-${order.outcome}`;
        if (!bins.has(name)) bins.set(name, new Uint32Array(this.binCount));
        bins.get(name)[this._bin(order.end)] += 1;
        if (age - order.end < this.flashMs) ended.push([order, name, age - order.end]);
        continue;
      }
      counts.inFlight += 1;
      counts.late += isLate ? 1 : 0;
      const phase = this._phase(order, age);
      counts.phases[phase] = (counts.phases[phase] ?? 0) + 1;
      const name = isLate ? "--late" : `--phase-${phase}`;
      if (!marks.has(name)) marks.set(name, []);
      marks.get(name).push(this._x(age, area), this._y(order, area));
    }
    this._drawBackground(area, clockMs);
    this._drawMarks(marks, area);
    this._drawEnded(ended, area);
    this._drawBins(bins, area);
    this._drawDisturbances(area, clockMs);
    return counts;
  }

  _assignRow(order) {
    const freeAt = order.accepted + (order.end ?? Infinity);
    let row = this.rowOf.get(order.id);
    if (row === undefined) {
      row = this.rows.findIndex((each) => each.freeAt <= order.accepted);
      if (row < 0) row = this.rows.length;
      this.rowOf.set(order.id, row);
    } else if (this.rows[row].id !== order.id) {
      return; // a later order has its row
    }
    this.rows[row] = { id: order.id, freeAt };
  }

  _countBins() {
    this.binCount = 90;
    const totals = new Uint32Array(this.binCount);
    for (const order of this.orders) if (order.end !== null) totals[this._bin(order.end)] += 1;
    this.highestBin = Math.max(1, ...totals);
  }

  _font(isBold = false) {
    return isBold ? `bold ${1.25 * this.fontPx}px ${this.fontFamily}` : `${this.fontPx}px ${this.fontFamily}`;
  }

  _bin(endMs) {
    return Math.min(this.binCount - 1, Math.floor((endMs / this.axisMs) * this.binCount));
  }

  _phase(order, age) {
    let current = "unknown";
    for (const [name, startMs] of order.phases) {
      if (startMs > age) break;
      current = name;
    }
    return current;
  }

  _fitCanvas() {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    return { width, height };
  }

  _layout(width, height) {
    const axis = 1.7 * this.fontPx;
    const bins = Math.round((height - axis) * 0.2);
    const top = 2 * this.fontPx;
    const rows = Math.max(this.minRows, this.rows.length);
    const bottom = height - axis - bins - 6;
    return { width, height, left: 8, right: width - 8, top, bottom, rowHeight: (bottom - top) / rows, axis, bins };
  }

  _x(ms, area) {
    return area.left + (Math.min(ms / this.axisMs, 1) * (area.right - area.left));
  }

  _y(order, area) {
    return area.top + (this.rowOf.get(order.id) + 0.5) * area.rowHeight;
  }

  _drawBackground(area, clockMs) {
    const context = this.context;
    const seconds = this.axisMs / 1000;
    const wanted = Math.max(3, Math.min(10, area.width / (7 * this.fontPx)));
    const step = [1, 2, 3, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((each) => seconds / each <= wanted) ?? 7200;
    context.lineWidth = 1;
    context.textAlign = "center";
    for (let second = 0; second <= seconds; second += step) {
      const x = this._x(second * 1000, area);
      this._line(x, area.top, x, area.height - area.axis, "--grid");
      context.fillStyle = this.color("--text");
      if (x > area.left + 4 && x < area.right - this.fontPx) context.fillText(`${second} s`, x, area.height - area.axis * 0.3);
    }
    this._line(area.left, area.height - area.axis, area.right, area.height - area.axis, "--muted");
    const x = this._x(this.limitMs, area);
    context.setLineDash([6, 4]);
    context.lineWidth = 2;
    this._line(x, area.top - 4, x, area.height - area.axis, "--late");
    context.setLineDash([]);
    context.fillStyle = this.color("--late");
    context.textAlign = "right";
    context.fillText(`limit ${this.limitMs / 1000} s`, x - 4, area.top * 0.67);
    const active = this.faults.filter((each) => each.from <= clockMs && (each.to === null || clockMs < each.to));
    if (active.length) {
      context.fillStyle = this.color("--band");
      context.fillRect(0, 0, area.width, 3);
      context.textAlign = "left";
      context.fillText(`faults: ${active.map((each) => each.name).join(", ")}`, area.left, area.top * 0.67);
    }
  }

  _line(x1, y1, x2, y2, colorName) {
    const context = this.context;
    context.strokeStyle = this.color(colorName);
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
    context.stroke();
  }

  _drawMarks(marks, area) {
    const context = this.context;
    const size = Math.max(2.5, Math.min(this.fontPx, area.rowHeight * 0.72));
    for (const [name, points] of marks) {
      context.fillStyle = this.color(name) || this.color("--muted");
      context.globalAlpha = 0.28;
      for (let n = 0; n < points.length; n += 2) {
        const from = Math.max(area.left, points[n] - 48);
        context.fillRect(from, points[n + 1] - size / 4, points[n] - from, size / 2);
      }
      context.globalAlpha = 1;
      for (let n = 0; n < points.length; n += 2) {
        context.fillRect(points[n] - size, points[n + 1] - size / 2, size * 1.4, size);
      }
      if (size < 4) continue;
      // The colors of the first steps are pale.
      context.strokeStyle = this.color("--muted");
      context.lineWidth = 1;
      for (let n = 0; n < points.length; n += 2) {
        context.strokeRect(points[n] - size, points[n + 1] - size / 2, size * 1.4, size);
      }
    }
  }

  /* A completed order leaves a point, another outcome a ring, a late order a cross: not by color alone. */
  _drawEnded(ended, area) {
    const context = this.context;
    const size = Math.max(2.5, Math.min(5, area.rowHeight * 0.4));
    context.lineWidth = 1.5;
    for (const [order, name, since] of ended) {
      const x = this._x(order.end, area);
      const y = this._y(order, area);
      context.globalAlpha = 1 - since / this.flashMs;
      context.strokeStyle = context.fillStyle = this.color(name);
      context.beginPath();
      if (order.late) {
        context.moveTo(x - size, y - size);
        context.lineTo(x + size, y + size);
        context.moveTo(x - size, y + size);
        context.lineTo(x + size, y - size);
      } else {
        context.arc(x, y, size, 0, 2 * Math.PI);
      }
      if (!order.late && order.outcome === "completed") context.fill();
      else context.stroke();
    }
    context.globalAlpha = 1;
  }

  /* The orders that have finished so far by their completion time. */
  _drawBins(bins, area) {
    const context = this.context;
    const bottom = area.height - area.axis;
    const width = (area.right - area.left) / this.binCount;
    const heights = new Float64Array(this.binCount);
    for (const name of ["--outcome-completed", "--outcome-cancelled", "--outcome-failed", "--late"]) {
      const counts = bins.get(name);
      if (!counts) continue;
      context.fillStyle = this.color(name);
      counts.forEach((count, bin) => {
        if (!count) return;
        const height = Math.max(1, (count / this.highestBin) * area.bins);
        context.fillRect(area.left + bin * width, bottom - heights[bin] - height, Math.max(1, width - 1), height);
        heights[bin] += height;
      });
    }
  }

  _drawDisturbances(area, clockMs) {
    const context = this.context;
    const recent = this.disturbances.filter((each) => each.at <= clockMs && clockMs < each.at + this.flashMs);
    const down = this.disturbances.filter(
      (each) => each.at <= clockMs && (each.until === null || clockMs < Math.max(each.until, each.at + this.flashMs)),
    );
    const changes = [...this.disturbances.map((each) => each.at), ...this.faults.map((each) => each.from)];
    // Not the faults that were active at the start.
    const since = clockMs - Math.max(...changes.filter((at) => at > 0 && at <= clockMs));
    if (since < this.flashMs && this.flashes) {
      context.globalAlpha = 0.25 * (1 - since / this.flashMs);
      context.fillStyle = this.color("--late");
      context.fillRect(0, 0, area.width, area.height - area.axis);
      context.globalAlpha = 1;
    }
    context.textAlign = "right";
    context.fillStyle = this.color("--text");
    down.slice(-4).forEach((each, n) => {
      context.font = this._font(recent.includes(each));
      context.fillText(each.name, area.right, area.top + this.fontPx * (1.2 + 1.5 * n));
    });
  }
}
