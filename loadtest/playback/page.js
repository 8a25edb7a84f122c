unpack("playback-data")
  .then((text) => {
    window.playback = new Playback(document.querySelector(".playback"), JSON.parse(text));
    document.body.dataset.ready = "true";
  })
  .catch((error) => {
    document.querySelector(".playback").textContent = `The playback cannot be shown in this browser: ${error.message}.`;
  });
