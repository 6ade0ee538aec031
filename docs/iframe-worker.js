// The search of the site, opened from the disk. A browser starts no worker from a file: a hidden frame runs the script of
// the worker in its place, and hands on the messages.
"use strict";
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      const own = new URL(url, location);
      const load = (from) =>
        new Promise((loaded, failed) => {
          const script = inside.document.createElement("script");
          Object.assign(script, { src: new URL(from, own), onload: loaded, onerror: failed });
          inside.document.body.append(script);
        });
      inside.importScripts = async (...scripts) => {
        for (const one of scripts) await load(one);
      };
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(own);
    }

    async postMessage(data) {
      await this.ready;
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data: structuredClone(data) }));
    }

    terminate() {
      this.frame.remove();
    }
  };
