// The latent explorer: runs the decoder in the browser on the latents that the sliders set.
"use strict";
(() => {
  const model = JSON.parse(document.getElementById("model").textContent);
  const canvas = document.getElementById("picture");
  const sliders = [...document.querySelectorAll(".sliders input")];

  const bytes = Uint8Array.from(atob(model.weights), (c) => c.charCodeAt(0));
  const values = model.precision === "float16" ? halves(new Uint16Array(bytes.buffer)) : new Float32Array(bytes.buffer);
  const layers = [];
  for (let i = 0, at = 0; i + 1 < model.widths.length; i++) {
    const [n, m] = [model.widths[i], model.widths[i + 1]];
    layers.push({ n, m, weight: values.subarray(at, at + n * m), bias: values.subarray(at + n * m, at + n * m + m) });
    at += n * m + m;
  }

  function halves(bits) {
    return Float32Array.from(bits, (h) => {
      const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024);
    });
  }

  // Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(x) * (1 - tail * Math.exp(-x * x));
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const activate = {
    relu: (x) => Math.max(0, x),
    leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
    silu: (x) => x * sigmoid(x),
    gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    softplus: (x) => (x > 20 ? x : Math.log1p(Math.exp(x))),
    tanh: Math.tanh,
  }[model.activation];
  const mean = {
    bernoulli: sigmoid,
    continuous_bernoulli: (l) => (Math.abs(l) < 0.1 ? 0.5 + l / 12 - l ** 3 / 720 : -1 / Math.expm1(-l) - 1 / l),
    gaussian: (l) => Math.min(1, Math.max(0, l)),
    discretized_logistic: (l) => Math.min(1, Math.max(0, l)),
  }[model.likelihood];

  function decode(z) {
    let x = z;
    layers.forEach(({ n, m, weight, bias }, index) => {
      const last = index + 1 === layers.length, y = new Float32Array(m);
      for (let row = 0; row < m; row++) {
        let sum = bias[row];
        for (let k = 0, at = row * n; k < n; k++) sum += weight[at + k] * x[k];
        y[row] = last ? mean(sum) : activate(sum);
      }
      x = y;
    });
    return x;
  }

  const z = Float32Array.from(model.starts[0].z);

  const [channels, height, width] = model.shape;
  canvas.width = width;
  canvas.height = height;

  function draw() {
    const pixels = decode(z), size = height * width;
    const image = new ImageData(width, height);
    for (let i = 0; i < size; i++) {
      let mean = 0; // of the channels, drawn unless there are 3
      for (let c = 0; c < channels; c++) mean += pixels[i + c * size] / channels;
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * (channels === 3 ? pixels[i + c * size] : mean));
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function show() {
    for (const slider of sliders) {
      slider.value = z[slider.dataset.dimension];
      slider.nextElementSibling.value = z[slider.dataset.dimension].toFixed(2);
    }
    draw();
  }

  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      z[slider.dataset.dimension] = slider.valueAsNumber;
      slider.nextElementSibling.value = slider.valueAsNumber.toFixed(2);
      draw();
    });
  }
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  document.getElementById("random").addEventListener("click", () => {
    const drawn = model.draws[Math.floor(Math.random() * model.draws.length)]; // undefined for N(0, I)
    z.forEach((_, j) => (z[j] = drawn ? drawn[j] : normal()));
    show();
  });
  document.querySelectorAll("[data-start]").forEach((button) =>
    button.addEventListener("click", () => {
      z.set(model.starts[button.dataset.start].z);
      show();
    })
  );
  show();
})();
