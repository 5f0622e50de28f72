// The few functions that Go calls to be inside a JavaScript frame. Everything is
// captured before any other code runs.
(function () {
  const resolve = Promise.resolve.bind(Promise);
  const then = Function.prototype.call.bind(Promise.prototype.then);
  return {
    enter: function (f) { f(); },
    await: function (v, f, g) { then(resolve(v), function (x) { f(x); }, function (e) { g(e); }); },
    generators: function () { return Object.getPrototypeOf(function* () {}).prototype; },
  };
})()
