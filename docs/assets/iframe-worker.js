// Search without a server. Browsers give no worker to a page that was opened as a file, so the theme's search worker runs
// in a frame that nobody sees: it gets what is posted to the worker as messages of its window, and what it posts arrives
// at the worker's listeners. The theme looks for the name `IFrameWorker`.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.receive = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const source = new URL(url, location.href).href.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      this.frame.srcdoc =
        "<script>self.postMessage = (data) => frameElement.receive(data)</script>" + `<script src="${source}"></script>`;
      this.frame.addEventListener("load", () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
      document.body.append(this.frame);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }

  window.IFrameWorker = window.Worker = IFrameWorker;
}
