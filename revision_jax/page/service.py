"""What the page does, without the page: a question waits in the line, is answered as `ground` answers, and told."""

import dataclasses
from collections.abc import Iterator

from revision_jax.data.video.opening import VideoError
from revision_jax.page.library import Library, Refused, Video
from revision_jax.page.line import Line, Tell
from revision_jax.prompts import normalize_event
from revision_jax.runs.answers import Answered
from revision_jax.runs.asking import Asking, ask
from revision_jax.runs.run import Run

POLL_S = 0.3  # between looks at the line
LONGEST = 500  # characters of a question; the model's own limit is told by the search


@dataclasses.dataclass(frozen=True)
class Service:
    """Who answers.

    Attributes:
      run: used by the line's thread alone.
      library: the videos.
      line: who waits for the run.
      how: as for `ground`.
    """

    run: Run
    library: Library
    line: Line
    how: Asking

    def ask(self, key: str | None, sentence: str) -> Iterator[str | tuple[Video, Answered]]:
        """Yields what to tell while a question waits and is answered; last, the video and the answer.

        Raises:
          ValueError: no such video, an empty or too long sentence, a file that is no whole video, a full line.
        """
        video = self.library.find(key)
        normalize_event(sentence)
        if len(sentence) > LONGEST:
            raise ValueError(f"the question has {len(sentence)} characters; expected at most {LONGEST}.")

        def work(tell: Tell) -> Answered:
            self.run.check_sentences([sentence])
            on_video = lambda _, doing: tell(doing.replace(video.path.name, video.name))
            return ask(self.run, [str(video.path)], [sentence], self.how, on_video).answered[0]

        job = self.line.join(work)
        try:
            while not job.wait(POLL_S):
                ahead = job.ahead
                yield f"waits: {ahead} {'question is' if ahead == 1 else 'questions are'} first" if ahead else job.doing
            yield video, job.result()
        except VideoError as error:  # its place on this machine is not told
            raise Refused(str(error).replace(str(video.path), video.name)) from error
        finally:
            job.leave()
