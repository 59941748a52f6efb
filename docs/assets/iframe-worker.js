"use strict";
// The search of a site that is opened from a folder: browsers refuse workers there, so their code runs in a hidden frame
// instead, with the messages handed over. Served by a server, the site keeps its workers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.body.appendChild(document.createElement("iframe"));
      frame.hidden = true;
      const inside = frame.contentWindow;
      inside.postMessage = (data) => this.#tell(new MessageEvent("message", { data: structuredClone(data) }));
      const script = inside.document.createElement("script");
      script.src = url;
      this.ready = new Promise((resolve) => {
        script.onload = resolve;
        script.onerror = () => this.#tell(new ErrorEvent("error", { message: `${url} cannot be loaded` }));
      });
      inside.document.head.append(script);
      this.frame = frame;
    }

    // Later, as a worker would: an answer within the question finds the page half drawn.
    #tell(event) {
      setTimeout(() => {
        this[`on${event.type}`]?.(event);
        this.dispatchEvent(event);
      });
    }

    postMessage(data) {
      const event = new MessageEvent("message", { data: structuredClone(data) });
      this.ready.then(() => this.frame.contentWindow?.dispatchEvent(event));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
