// The few functions that Go calls to be inside a JavaScript frame. Everything is
// captured before any other code runs.
(function () {
  return {
    enter: function (f) { f(); },
    // An async function, so that an isolate makes Promise when it first needs one.
    await: async function (v, f, g) {
      let x;
      try { x = await v; } catch (e) { g(e); return; }
      f(x);
    },
    generators: function () { return Object.getPrototypeOf(function* () {}).prototype; },
  };
})()
