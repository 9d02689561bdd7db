"""The container formats that FFmpeg may open: files that hold all of their content themselves.

FFmpeg recognises formats by content whatever the name; playlists, session descriptions and image sequences make it
open other files. So a file's first bytes are checked before, and FFmpeg may use the listed formats only.
"""

from __future__ import annotations

import codecs

HEAD_BYTES = 4096

# Other files that are met under a video's name, by their first bytes in lower case.
IMPOSTORS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: run 'git lfs pull'",
    b"<!doctype html": "it is a web page, not a video",
    b"<html": "it is a web page, not a video",
    b"#extm3u": "it is a playlist, not a video",
    b"ffconcat": "it is a playlist, not a video",
    b"[playlist]": "it is a playlist, not a video",
    b"[reference]": "it is a playlist, not a video",
    b"<asx": "it is a playlist, not a video",
    b"<smil": "it is a playlist, not a video",
    b"<mpd": "it is a playlist, not a video",
    b"v=0": "it is a stream description (SDP), not a video",
    b"<?xml": "it is an XML document, not a video",
    b"<svg": "it is an XML document, not a video",
}
BLANKS = b"\xef\xbb\xbf \t\r\n"  # may come before these; the first three are a byte order mark
TEXT_THEN_PICTURES = b"YUV4MPEG2 "  # a video that begins with a line of text
CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")  # never in text

# FFmpeg's demuxers that read a single file, by name: not those that open others (concat, dash, hls, image2, imf,
# mlv, rtsp, sdp, vobsub), nor devices, text and subtitles.
FORMATS = (
    "3dostr,4xm,amv,anm,apng,apv,argo_brp,asf,asf_o,av1,avi,avr,avs,avs2,avs3,bethsoftvid,bfi,bink,bmv,"
    "c93,cavsvideo,cdg,cdxl,cine,derf,dfa,dhav,dirac,dnxhd,dsicin,dv,dxa,ea,ea_cdata,evc,film_cpk,"
    "filmstrip,fits,flic,flv,frm,gdv,gif,gxf,h261,h263,h264,hevc,hnm,hxvs,ico,idcin,iff,ifv,ingenient,"
    "ipmovie,ipu,iss,iv8,ivf,ivr,jpegxl_anim,jv,kux,live_flv,lmlm4,luodat,lvf,lxf,m4v,matroska,mgsts,"
    "mjpeg,mjpeg_2000,mm,mods,moflex,mov,mpeg,mpegts,mpegvideo,mpjpeg,msnwctcp,mtv,musx,mv,mvi,mxf,mxg,nc,"
    "nsv,nut,nuv,obu,ogg,paf,pdv,pmp,psxstr,pva,r3d,rl2,rm,roq,rpl,sdr2,sdx,ser,sga,siff,simbiosis_imx,"
    "smjpeg,smk,smush,sol,swf,thp,tiertexseq,tmv,txd,ty,usm,vc1,vc1test,vividas,vivo,vmd,vvc,wc3movie,"
    "wsvqa,wtv,wv,xmv,yop,yuv4mpegpipe,"
    "bmp_pipe,cri_pipe,dds_pipe,dpx_pipe,exr_pipe,gem_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,"
    "jpegls_pipe,jpegxl_pipe,jpegxs_pipe,pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,"
    "pgx_pipe,phm_pipe,photocd_pipe,pictor_pipe,png_pipe,ppm_pipe,psd_pipe,qdraw_pipe,qoi_pipe,sgi_pipe,"
    "sunrast_pipe,tiff_pipe,vbn_pipe,webp_pipe,xwd_pipe,"
    "aac,ac3,aiff,amr,ape,au,caf,dts,eac3,flac,mp3,oma,tta,voc,w64,wav"
)


def why_not_video(head: bytes) -> str | None:
    """Return why a file with these first bytes is not a video; None where it may be one."""
    start = head.lstrip(BLANKS).lower()
    for first_bytes, why_not in IMPOSTORS.items():
        if start.startswith(first_bytes):
            return why_not
    if _is_text(head) and not head.startswith(TEXT_THEN_PICTURES):
        return "it is text, not a video"
    return None


def _is_text(head: bytes) -> bool:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return False
    return CONTROLS.isdisjoint(head)
