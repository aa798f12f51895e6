// A click on a moment: the player goes there, with the moment's own video.
document.addEventListener("click", (event) => {
  const moment = event.target.closest("[data-seek]");
  const player = document.querySelector("#player video");
  if (!moment || !player) return;
  const jump = () => {
    player.currentTime = Number(moment.dataset.seek);
    player.play().catch(() => {});
  };
  if (player.dataset.video !== moment.dataset.of) {
    player.dataset.video = moment.dataset.of;
    player.src = "video/" + moment.dataset.of;
  }
  if (player.readyState > 0) jump();
  else player.addEventListener("loadedmetadata", jump, { once: true });
});
document.addEventListener("error", (event) => {
  if (event.target.matches?.("#player video")) document.querySelector("#player .unplayable").hidden = false;
}, true);
