// Browsers start no workers for pages read from disk, and the search is one. There, run it in a hidden frame instead.
// Without this file, zensical's offline plugin fetches such a script from the network.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => this.onmessage?.({ data });
      const script = inner.document.createElement("script");
      script.src = new URL(url, document.baseURI);
      this.loaded = new Promise((resolve, reject) => {
        script.onload = () => resolve(inner);
        script.onerror = () => reject(new Error(`${script.src} cannot be loaded`));
      });
      this.loaded.catch((error) => this.onerror?.(error));
      inner.document.body.append(script);
    }

    postMessage(data) {
      this.loaded.then((inner) => inner.onmessage({ data: structuredClone(data) }));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
