"""The containers and codecs that are read. FFmpeg has hundreds: each is a parser that a hostile file may choose.

What cameras, phones, recorders, browsers and editors write is here; formats of old games and of laboratories are not.
"""

from __future__ import annotations

# Playlists (hls, concat, dash), network formats and devices are left out: they name other files, and a clip must never
# make us open one.
DEMUXERS = (
    "mov,matroska,webm,avi,flv,asf,mpeg,mpegts,ogg,wav,aiff,flac,mp3,aac,amr,gif,png_pipe,jpeg_pipe,bmp_pipe,webp_pipe"
)
FILES = (
    "mp4, mov, m4a, mkv, webm, avi, flv, wmv, mpg, ts, ogg, opus, wav, aiff, flac, mp3, aac, amr, gif, png, jpg, bmp "
    "or webp"
)
TEXT_DECODERS = frozenset(("mov_text", "subrip", "srt", "webvtt", "text", "ass", "ssa"))  # bitmaps hold no words
# By FFmpeg's names for decoders, of which a codec may have several: which one is taken depends on how it was built.
NAMES = """
    h264 hevc av1 libdav1d libaom-av1 vp8 vp9 libvpx libvpx-vp9 vp6 vp6f theora mpeg1video mpeg2video mpegvideo mpeg4
    msmpeg4v1 msmpeg4v2 msmpeg4 h263 h263p flv wmv1 wmv2 wmv3 vc1 mjpeg prores dnxhd dvvideo ffv1 huffyuv ffvhuff
    rawvideo png gif bmp webp
    aac aac_fixed aac_latm mp1 mp1float mp2 mp2float mp3 mp3float ac3 ac3_fixed eac3 opus libopus vorbis libvorbis
    speex libspeex flac alac amrnb amrwb libopencore_amrnb libopencore_amrwb wmav1 wmav2 wmapro wmavoice wmalossless
    nellymoser gsm gsm_ms adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_swf pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le
    pcm_s16be pcm_s16le_planar pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_f64be
    pcm_bluray pcm_dvd
"""
DECODERS = TEXT_DECODERS.union(NAMES.split())
