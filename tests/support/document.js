// As much of a browser's document as the explorer's view uses, for a JavaScript engine that has none.
var listeners = {};
class Element {
  constructor(tag) {
    this.tag = tag; this.children = []; this.dataset = {}; this.style = {}; this.attributes = {}; this.heard = {};
    this.className = ""; this.value = ""; this._text = ""; this.width = 100; this.height = 100; this.log = [];
    this.classList = {toggle: (name, on) => {
      const names = new Set(this.className.split(" ").filter(Boolean));
      if (on) names.add(name); else names.delete(name);
      this.className = [...names].join(" ");
    }};
  }
  get textContent() { return this._text + this.children.map((c) => typeof c === "string" ? c : c.textContent).join(""); }
  set textContent(text) { this._text = String(text); this.children = []; }
  set innerHTML(text) { throw new Error("markup from data"); }
  append(...made) { this.children.push(...made); }
  replaceChildren(...made) { this._text = ""; this.children = made; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, call) { (this.heard[name] = this.heard[name] || []).push(call); }
  fire(name, event = {}) { (this.heard[name] || []).forEach((call) => call({target: this, preventDefault() {}, ...event})); }
  getBoundingClientRect() { return {left: 0, top: 0, width: this.width, height: this.height}; }
  all() { return this.children.flatMap((c) => typeof c === "string" ? [] : [c, ...c.all()]); }
  querySelectorAll() { return this.all().filter((c) => "word" in c.dataset); }
  querySelector(tag) { return this.named = this.named || new Element(tag); }
  getContext() {
    const canvas = this;
    const pen = {canvas};
    return new Proxy(pen, {
      get: (target, name) => name in target ? target[name] : (...given) => { canvas.log.push([name, target.fillStyle, ...given]); },
      set: (target, name, value) => { target[name] = value; return true; },
    });
  }
}
var byId = {};
var document = {
  getElementById: (id) => byId[id] = byId[id] || new Element(id),
  createElement: (tag) => new Element(tag),
  addEventListener: (name, call) => { (listeners[name] = listeners[name] || []).push(call); },
  documentElement: new Element("html"), body: new Element("body"),
};
var window = {devicePixelRatio: 1, matchMedia: () => ({matches: false, addEventListener() {}})};
var getComputedStyle = () => ({getPropertyValue: () => "#fff"});
class Image {
  set src(text) { this.source = text; this.complete = true; this.naturalWidth = this.naturalHeight = 48; this.onload(); }
}
var ticking = null;
var setInterval = (call) => { ticking = call; return 1; };
var clearInterval = () => { ticking = null; };
