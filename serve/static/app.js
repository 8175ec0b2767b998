// The page: images from a file, a video, the camera or a scene go over the socket, answers are drawn.
const $ = (id) => document.getElementById(id);
const video = $("video"), shown = $("input"), map = $("map");
let about = null, socket = null, still = null, waiting = false, chosen = new Set();
let answers = [], times = [], stream = null;

// A token stays in the fragment, which browsers send nowhere.
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
const query = token ? "?token=" + encodeURIComponent(token) : "";
const bearer = token ? { Authorization: "Bearer " + token } : {};

function say(text = "") { $("message").textContent = text; }

async function connect() {
  const asked = await fetch("/api/v1/about", { headers: bearer }).catch(() => null);
  if (asked?.status === 401) {
    say("This server wants a token: open the address that it printed.");
    return;
  }
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/api/v1/live${query}`);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    waiting = false;
    say("The server is away; trying again …");
    setTimeout(connect, 1500);
  };
}

function receive(message) {
  if (message.about) { setUp(message.about); return; }
  if (message.progress) {
    $("progress").hidden = false;
    $("progress").value = message.progress.share;
    $("rate").textContent = message.progress.what;
    return;
  }
  waiting = false;
  $("progress").hidden = true;
  if (message.error) { say(message.error); return; }
  say();
  answers = message.frame.tasks;
  rate(message.frame);
  draw(message.frame);
  next();
}

function setUp(news) {
  const first = !about;
  about = news;
  say();
  $("about").textContent = `${about.model} on preset ${about.preset}, ` +
    `${about.image[1]} × ${about.image[0]} pixels`;
  if (first) {
    fill($("backend"), about.backends.map((name) => [name, name]));
    for (const task of about.tasks) {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.value = task.name;
      box.onchange = () => { box.checked ? chosen.add(task.name) : chosen.delete(task.name); ask(); };
      chosen.add(task.name);
      label.append(box, task.name);
      $("tasks").append(label);
    }
    scene(0);
  } else ask();
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}

// What is wanted, and the image that stands still, once more.
function ask() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const tasks = about.tasks.map((t) => t.name).filter((name) => chosen.has(name));
  socket.send(JSON.stringify({ tasks, backend: $("backend").value, experts: true }));
  if (tasks.length && still) { socket.send(still); waiting = true; }
}

// The next picture of what moves: only when the answer to the last one is here.
async function next() {
  if (waiting || still || video.readyState < 2 || !chosen.size) return;
  waiting = true;
  const [height, width] = about.image, ratio = width / height;
  const across = Math.min(video.videoWidth, video.videoHeight * ratio), down = across / ratio;
  const canvas = new OffscreenCanvas(Math.min(2 * width, Math.round(across)), 0);
  canvas.height = Math.round(canvas.width / ratio);
  canvas.getContext("2d").drawImage(video, (video.videoWidth - across) / 2,
    (video.videoHeight - down) / 2, across, down, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  if (still || socket.readyState !== WebSocket.OPEN) { waiting = false; return; }
  socket.send(blob);
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.pause();
  video.removeAttribute("src");
  video.srcObject = null;
  $("camera").setAttribute("aria-pressed", "false");
}

async function play(source) {
  stop();
  still = null;
  waiting = false;
  times = [];
  if (source instanceof MediaStream) { stream = source; video.srcObject = source; }
  else video.src = URL.createObjectURL(source);
  video.onerror = () => say("This browser cannot play the video.");
  await video.play();
  ask();
  next();
}

async function open(file) {
  if (!file) return;
  $("hint").hidden = true;
  if (file.type.startsWith("video/")) { await play(file).catch((e) => say(String(e.message))); return; }
  stop();
  times = [];
  still = await file.arrayBuffer();
  ask();
}

async function scene(number) {
  const answer = await fetch(`/api/v1/scene?number=${number}`, { headers: bearer });
  if (!answer.ok) { say((await answer.json()).error); return; }
  stop();
  still = await answer.arrayBuffer();
  ask();
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => { open($("file").files[0]); $("file").value = ""; };
$("scene").onclick = () => scene(Math.floor(Math.random() * 500));
$("camera").onclick = async () => {
  if (stream) { stop(); return; }
  try {
    await play(await navigator.mediaDevices.getUserMedia({ video: { width: 640 } }));
    $("camera").setAttribute("aria-pressed", "true");
    $("hint").hidden = true;
  } catch (error) { say(`No camera: ${error.message}`); }
};
$("backend").onchange = () => { times = []; ask(); };
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });
}

function rate(frame) {
  times.push(performance.now());
  while (times.length > 30) times.shift();
  const span = (times.at(-1) - times[0]) / 1000;
  $("rate").textContent = times.length > 2 && !still
    ? `${((times.length - 1) / span).toFixed(1)} images/s, ${frame.tasks.length} tasks each, here`
    : `${(frame.seconds * 1000).toFixed(0)} ms here`;
}

const cards = new Map();
function card(answer) {
  if (!cards.has(answer.task)) {
    const made = document.createElement("article");
    made.dataset.task = answer.task;
    made.innerHTML = "<h2></h2><img alt=''><ol hidden></ol><p></p><p class='soft'></p>";
    cards.set(answer.task, made);
  }
  return cards.get(answer.task);
}

function draw(frame) {
  const image = new Image();
  image.onload = () => {
    shown.width = image.width;
    shown.height = image.height;
    shown.getContext("2d").drawImage(image, 0, 0);
    drawMap(image);
  };
  image.src = frame.input;
  $("results").replaceChildren(...frame.tasks.map((answer) => {
    const made = card(answer), board = answer.board;
    const exact = { true: "bit exact", false: "NOT BIT EXACT", null: "" }[answer.bit_exact];
    made.querySelector("h2").replaceChildren(answer.task, Object.assign(
      document.createElement("span"), { textContent: exact }));
    const picture = made.querySelector("img"), list = made.querySelector("ol");
    picture.hidden = !answer.picture;
    if (answer.picture) { picture.src = answer.picture; picture.alt = `prediction: ${answer.task}`; }
    list.hidden = !answer.best;
    list.replaceChildren(...(answer.best ?? []).map(([label, logit]) => Object.assign(
      document.createElement("li"), { textContent: `class ${label}: ${logit}` })));
    const [cost, how] = made.querySelectorAll("p");
    cost.textContent = `${board.cycles.toLocaleString("en")} cycles, ${board.ms.toFixed(2)} ms, ` +
      `${Math.round(board.fps).toLocaleString("en")} frames/s`;
    how.textContent = `${board.how} at a target of ${board.clock_mhz} MHz`;
    return made;
  }));
  const routed = answers.filter((a) => a.experts?.length);
  $("experts").hidden = !routed.length;
  if (!routed.length) return;
  fill($("expert-task"), routed.map((a) => [a.task, a.task]));
  const layers = routed.find((a) => a.task === $("expert-task").value).experts;
  fill($("expert-block"), layers.map((l) => [l.block, l.block]));
  fill($("expert-rank"), layers[0].indices[0].map((_, n) => [n, n ? `${n + 1}.` : "first"]));
}

function drawMap(image) {
  const answer = answers.find((a) => a.task === $("expert-task").value);
  const layer = answer?.experts?.find((l) => String(l.block) === $("expert-block").value);
  if (!layer) return;
  const [rows, columns] = about.grid, rank = Number($("expert-rank").value);
  map.height = Math.round((map.width * about.image[0]) / about.image[1]);
  const pen = map.getContext("2d"), w = map.width / columns, h = map.height / rows;
  pen.globalAlpha = 1;
  pen.drawImage(image, 0, 0, map.width, map.height);
  pen.font = `${Math.min(w, h) * 0.55}px system-ui`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  layer.indices.forEach((experts, patch) => {
    const expert = experts[rank];
    if (expert === undefined || expert < 0) return;
    const x = (patch % columns) * w, y = Math.floor(patch / columns) * h;
    pen.globalAlpha = 0.62;
    pen.fillStyle = colour(expert);
    pen.fillRect(x, y, w, h);
    pen.globalAlpha = 0.9;
    pen.fillStyle = dark(colour(expert)) ? "#fff" : "#111";
    pen.fillText(expert, x + w / 2, y + h / 2);
  });
  $("queues").replaceChildren(...layer.queues.map((count, expert) => {
    const line = document.createElement("div"), key = document.createElement("i");
    key.style.background = colour(expert);
    line.append(key, `${expert}: ${count}`);
    line.title = `expert ${expert}: ${count} tokens`;
    return line;
  }));
}

const colour = (n) => about.palette[n % about.palette.length];
const dark = (hex) => [1, 3, 5].reduce((sum, at, n) =>
  sum + parseInt(hex.slice(at, at + 2), 16) * [0.3, 0.59, 0.11][n], 0) < 120;
for (const id of ["expert-task", "expert-block", "expert-rank"]) {
  $(id).onchange = () => draw({ tasks: answers, input: shown.toDataURL() });
}

connect();
